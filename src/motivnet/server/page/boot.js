// Starts the page of `motivnet page`: a browser loads no modules from a disk, but those that a script holds as text.
{
  const { modules } = globalThis.motivnet;
  // In place of the module that asks the server.
  const INSTEAD = { api: "local" };
  const addresses = new Map();
  const addressOf = (name) => {
    if (!addresses.has(name)) {
      const code = modules[INSTEAD[name] ?? name];
      const linked = code.replaceAll(/"\.\/(\w+)\.js"/g, (_, other) => JSON.stringify(addressOf(other)));
      addresses.set(name, URL.createObjectURL(new Blob([linked], { type: "text/javascript" })));
    }
    return addresses.get(name);
  };
  document.documentElement.dataset.engine = "local";
  import(addressOf("app"));
}
