// Elastic's OTLP server on free ports: prints where it listens, then a line for each span.
const {MockOtlpServer} = require('@elastic/mockotlpserver');

const server = new MockOtlpServer({
    logLevel: 'error',
    services: ['http'],
    httpHostname: '127.0.0.1',
    httpPort: 0,
    onTrace: (trace) => {
        for (const of of trace.resourceSpans) {
            const service = of.resource.attributes.find((each) => each.key === 'service.name');
            for (const scope of of.scopeSpans) {
                for (const span of scope.spans) {
                    const told = {
                        service: service && service.value.stringValue,
                        trace: Buffer.from(span.traceId).toString('hex'),
                        span: Buffer.from(span.spanId).toString('hex'),
                        name: span.name,
                        kind: span.kind,
                    };
                    process.stdout.write(JSON.stringify(told) + '\n');
                }
            }
        }
    },
});
server.start().then(() => process.stdout.write(server.httpUrl + '\n'));
