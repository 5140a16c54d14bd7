// Prints a line of JSON for each change that the client of Node sees: of the passing instances of a service, and of keys.
const Consul = require("consul");

const consul = new Consul({ host: "127.0.0.1", port: Number(process.argv[2]) });
const say = (line) => process.stdout.write(JSON.stringify(line) + "\n");

function watch(what, method, options, shown) {
  const watching = consul.watch({ method, options, backoffFactor: 100 });
  watching.on("change", (data) => say({ [what]: shown(data) }));
  watching.on("error", (error) => say({ error: `${what}: ${error.message}` }));
}

async function main() {
  say({ self: (await consul.agent.self()).Config.NodeName });
  await consul.agent.service.register({ name: "node", id: "node-1", port: 3000, check: { ttl: "10m", status: "passing" } });
  await consul.kv.set("settings/colour", "blue");
  watch("web", consul.health.service, { service: "web", passing: true }, (found) => found.map((one) => one.Service.ID).sort());
  watch("keys", consul.kv.get, { key: "settings/", recurse: true }, (found) => found.map((one) => `${one.Key}=${one.Value}`));
}

main().catch((error) => { say({ error: String(error) }); process.exit(1); });
