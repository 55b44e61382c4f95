// A stock grpc-js client against an edge: node client.js PLAN. It prints a line of JSON for each case, as tests/clients/plan.py says.
"use strict";

const fs = require("node:fs");
const path = require("node:path");
const { createRequire } = require("node:module");

const tools = path.resolve(__dirname, "../../../.tools/node/node_modules");
const grpc = createRequire(path.join(tools, "x.js"))("@grpc/grpc-js");

const plan = JSON.parse(fs.readFileSync(process.argv[2], "utf-8"));
const within = plan.within * 1000;
const same = (bytes) => bytes;
const message = (name) => fs.readFileSync(path.join(plan.messages, name));
const pause = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));

function connect(options = {}) {
  const credentials = grpc.credentials.createSsl(fs.readFileSync(plan.roots));
  return new grpc.Client(plan.address, credentials, {
    "grpc.ssl_target_name_override": plan.authority,
    "grpc.default_authority": plan.authority,
    "grpc.max_receive_message_length": -1,
    "grpc.max_send_message_length": -1,
    "grpc.use_local_subchannel_pool": 1,
    ...options,
  });
}

function bearing(token, more = {}) {
  const metadata = new grpc.Metadata();
  if (token) metadata.set("authorization", `Bearer ${token}`);
  for (const [name, value] of Object.entries(more)) metadata.set(name, value);
  return metadata;
}

// A call of streams: its messages and its status as promises.
class Call {
  constructor(client, token, { method = plan.delta, deadline = within, metadata = bearing(token) } = {}) {
    this.waiting = [];
    this.arrived = [];
    this.status = null;
    this.call = client.makeBidiStreamRequest(method, same, same, metadata, { deadline: Date.now() + deadline });
    this.call.on("data", (bytes) => this.take({ bytes }));
    this.call.on("error", () => {});
    this.over = new Promise((done) => {
      this.call.on("status", (status) => {
        this.status = status;
        this.take({ status });
        done(status);
      });
    });
  }

  take(one) {
    const waiting = this.waiting.shift();
    if (waiting) waiting(one);
    else this.arrived.push(one);
  }

  next() {
    const one = this.arrived.shift();
    return one ? Promise.resolve(one) : new Promise((done) => this.waiting.push(done));
  }

  async ask(bytes) {
    this.call.write(bytes);
    const one = await this.next();
    if (!one.bytes || !one.bytes.length) throw new Error(`the call ended with ${one.status.code}: ${one.status.details}`);
    return one.bytes;
  }

  async lives() {
    this.call.end();
    const status = await this.over;
    if (status.code !== grpc.status.OK) throw new Error(`the call ended with ${status.code}: ${status.details}`);
  }
}

function short(client, token, more = {}) {
  return new Promise((done) => {
    client.makeUnaryRequest(
      plan.status, same, same, message("status"), bearing(token, more), { deadline: Date.now() + within },
      (error) => done(error ? error.code : grpc.status.OK),
    );
  });
}

function expect(got, wanted) {
  if (got !== wanted) throw new Error(`status ${got} instead of ${wanted}`);
}

function together(count, name) {
  return async () => {
    const client = connect();
    try {
      const first = message(name);
      const calls = Array.from({ length: count }, (_, number) => new Call(client, plan.tokens[number % plan.tokens.length]));
      const answers = await Promise.allSettled(calls.map((call) => call.ask(first)));
      const lost = answers.filter((one) => one.status === "rejected");
      calls.forEach((call) => call.call.cancel());
      if (lost.length) throw new Error(`answered ${count - lost.length} of ${count}: ${lost[0].reason.message}`);
    } finally {
      client.close();
    }
  };
}

// With a connection and an answered call on it.
function on(run, options = {}) {
  return async () => {
    const client = connect(options);
    try {
      const call = new Call(client, plan.tokens[0], { deadline: 2 * within });
      await call.ask(message("first"));
      await run(client, call);
    } finally {
      client.close();
    }
  };
}

async function deadline(client) {
  const call = new Call(client, plan.tokens[1], { deadline: 500 });
  await call.ask(message("first"));
  expect((await call.over).code, grpc.status.DEADLINE_EXCEEDED);
  expect(await short(client, plan.tokens[0]), grpc.status.OK);
}

async function cancellation(client, other) {
  for (let number = 0; number < 50; number++) {
    const call = new Call(client, plan.tokens[number % plan.tokens.length]);
    if (number % 3 === 1) call.call.write(message("200kB"));
    if (number % 3 === 2) await call.ask(message("200kB"));
    call.call.cancel();
  }
  await other.lives();
}

async function silence(_client, call) {
  await pause(4000);
  await call.lives();
}

const longMetadata = (size, taken) => async (client, other) => {
  const more = {};
  for (let number = 0; number < size / 1000; number++) more[`x-${number}`] = "v".repeat(1000);
  const code = await short(client, plan.tokens[0], more);
  if ((code === grpc.status.OK) !== taken) throw new Error(`${size} bytes of metadata: status ${code}`);
  expect(await short(client, plan.tokens[0]), grpc.status.OK);
  await other.lives();
};

async function tooLong(client, other) {
  const call = new Call(client, plan.tokens[1]);
  call.call.write(message("9MB"));
  expect((await call.over).code, grpc.status.RESOURCE_EXHAUSTED);
  await other.lives();
}

async function bulky(client) {
  const answer = await new Call(client, plan.bulky).ask(message("first"));
  if (answer.length < 5_000_000) throw new Error(`${answer.length} bytes`);
}

async function refusals(client, other) {
  expect(await short(client, "nonsense"), grpc.status.UNAUTHENTICATED);
  expect((await new Call(client, "").over).code, grpc.status.UNAUTHENTICATED);
  expect((await new Call(client, plan.tokens[0], { method: "/no/such" }).over).code, grpc.status.UNIMPLEMENTED);
  await other.lives();
}

async function compression() {
  const client = connect({ "grpc.default_compression_algorithm": 2 });
  try {
    const call = new Call(client, plan.tokens[1]);
    call.call.write(message("200kB"));
    const one = await call.next();
    if (!one.bytes) expect(one.status.code, grpc.status.UNIMPLEMENTED);
    call.call.cancel();
  } finally {
    client.close();
  }
}

async function shortCalls(client) {
  const codes = await Promise.all(Array.from({ length: 300 }, (_, n) => short(client, plan.tokens[n % plan.tokens.length])));
  const wrong = codes.filter((code) => code !== grpc.status.OK);
  if (wrong.length) throw new Error(`${wrong.length} of 300 ended with ${wrong[0]}`);
}

const cases = {
  "1 call": together(1, "first"),
  "8 calls, 200 kB each": together(8, "200kB"),
  "16 calls, 200 kB each": together(16, "200kB"),
  "32 calls, 200 kB each": together(32, "200kB"),
  "8 calls, 1 MB each": together(8, "1MB"),
  "256 calls": together(256, "first"),
  "300 short calls": on(shortCalls),
  deadline: on(deadline),
  cancellation: on(cancellation),
  "half close": on((_, call) => call.lives()),
  compression,
  keepalive: on(silence, { "grpc.keepalive_time_ms": 1200, "grpc.keepalive_timeout_ms": 1000, "grpc.keepalive_permit_without_calls": 1 }),
  "16 kB of metadata": on(longMetadata(16_000, true)),
  "100 kB of metadata": on(longMetadata(100_000, false)),
  "message of 9 MB": on(tooLong),
  "answer of 5 MB": on(bulky),
  refusals: on(refusals),
};

async function main() {
  for (const [name, run] of Object.entries(cases)) {
    if (plan.omit.includes(name)) continue;
    let row = { case: name, passed: true, detail: "" };
    const late = pause(3 * within).then(() => { throw new Error("it hangs"); });
    late.catch(() => {});
    try {
      await Promise.race([run(), late]);
    } catch (error) {
      row = { case: name, passed: false, detail: error.message.slice(0, 300) };
    }
    process.stdout.write(`${JSON.stringify(row)}\n`);
  }
  process.exit(0);
}

main();
