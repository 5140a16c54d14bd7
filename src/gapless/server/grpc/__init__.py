"""gRPC, passed on to a grpc.aio server in the same process."""
