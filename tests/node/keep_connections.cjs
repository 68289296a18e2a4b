// Preloaded into dynalite: a server that closes a connection after five idle seconds may do so at the
// moment at which a client sends a write, whose outcome is then unknown.
const http = require("node:http");

const createServer = http.createServer;
http.createServer = (...options) => Object.assign(createServer(...options), { keepAliveTimeout: 0 });
