// Reads a feed over a WebSocket, by the library `ws`, and says how far it is, a line of JSON each.
import { createRequire } from "node:module";

const WebSocket = createRequire(`${process.env.NODE_PATH ?? process.cwd()}/`)("ws");
const [url, count] = [process.argv[2], Number(process.argv[3])];
const check = { seen: 0, gaps: 0, duplicates: 0, connections: 0 };
let last = null;

function connect() {
  const from = new URL(url);
  if (last !== null) from.searchParams.set("after", last);
  const socket = new WebSocket(from);
  socket.on("open", () => { check.connections += 1; });
  socket.on("message", data => {
    const entry = JSON.parse(data);
    if (entry.event) return;
    const expected = check.seen + 1;
    if (entry.position !== entry.changes[0].row.n || entry.position > expected) check.gaps += 1;
    else if (entry.position < expected) check.duplicates += 1;
    check.seen = Math.max(check.seen, entry.position);
    last = entry.cursor;
    if (check.seen % 500 === 0 || check.seen >= count) console.log(JSON.stringify(check));
    if (check.seen >= count) process.exit(0);
  });
  // What follows is `close`.
  socket.on("error", () => {});
  socket.on("close", () => setTimeout(connect, 50));
}

connect();
