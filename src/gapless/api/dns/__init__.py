"""The registry over DNS: names below one zone lead to the instances that answer. What is answered is a pure function
(`names`, `answer`, `wire`); `listen` moves packets."""
