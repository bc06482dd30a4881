// Driver of Node's @grpc/grpc-js: `node grpc_js.mjs FOLDER`, where FOLDER has the packages. The plan comes on stdin.
//
// It fills messages itself, so it can send whatever the protocol can say; the proto is the repository's own. Values are
// as in driver.py.

import { createHash } from "node:crypto";
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const require = createRequire(join(process.argv[2], "package.json"));
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const ROOT = join(dirname(fileURLToPath(import.meta.url)), "..", "..", "..");
const CALL_MS = 60_000;
const EVENTUALLY_MS = 30_000;
const MAX_SHOWN = 100;
const COMPRESSION = { deflate: 1, gzip: 2 };
const CONTENTS = {
  BOOL: "bool_contents", INT8: "int_contents", INT16: "int_contents", INT32: "int_contents", INT64: "int64_contents",
  UINT8: "uint_contents", UINT16: "uint_contents", UINT32: "uint_contents", UINT64: "uint64_contents",
  FP32: "fp32_contents", FP64: "fp64_contents", BYTES: "bytes_contents",
};
const SIZES = {
  BOOL: 1, INT8: 1, UINT8: 1, INT16: 2, UINT16: 2, FP16: 2, BF16: 2, INT32: 4, UINT32: 4, FP32: 4, INT64: 8, UINT64: 8,
  FP64: 8,
};

const definition = loader.loadSync("mesh/oip/open_inference.proto", {
  includeDirs: [join(ROOT, "protos")], keepCase: true, longs: String, defaults: true, arrays: true, objects: true,
});
const { GRPCInferenceService } = grpc.loadPackageDefinition(definition).inference;

const plan = JSON.parse(readFileSync(0, "utf8"));
const unlimited = { "grpc.max_receive_message_length": -1, "grpc.max_send_message_length": -1 };
const clients = { "": connect({}) };

function connect(options) {
  return new GRPCInferenceService(plan.grpc, grpc.credentials.createInsecure(), { ...unlimited, ...options });
}

function clientFor(compression) {
  const options = { "grpc.default_compression_algorithm": COMPRESSION[compression] };
  return (clients[compression ?? ""] ??= connect(options));
}

class Failed extends Error {
  constructor(error) {
    super(error.details);
    this.code = Object.keys(grpc.status).find((name) => grpc.status[name] === error.code);
  }
}

function call(method, request, compression) {
  const deadline = Date.now() + CALL_MS;
  return new Promise((resolve, reject) => {
    clientFor(compression)[method](request, { deadline }, (error, response) =>
      error ? reject(new Failed(error)) : resolve(response));
  });
}

// --- values

function rawBytes({ datatype, data }) {
  if (datatype === "BYTES") {
    return Buffer.concat(data.flatMap((text) => {
      const length = Buffer.alloc(4);
      length.writeUInt32LE(text.length);
      return [length, Buffer.from(text, "latin1")];
    }));
  }
  if (data.arange) return Buffer.from(Float32Array.from({ length: data.arange }, (_, index) => index).buffer);
  const size = SIZES[datatype];
  const raw = Buffer.alloc(size * data.length);
  data.forEach((value, index) => WRITE[datatype](raw, value, index * size));
  return raw;
}

const WRITE = {
  BOOL: (raw, value, at) => raw.writeUInt8(value ? 1 : 0, at),
  INT8: (raw, value, at) => raw.writeInt8(value, at),
  UINT8: (raw, value, at) => raw.writeUInt8(value, at),
  INT16: (raw, value, at) => raw.writeInt16LE(value, at),
  UINT16: (raw, value, at) => raw.writeUInt16LE(value, at),
  INT32: (raw, value, at) => raw.writeInt32LE(value, at),
  UINT32: (raw, value, at) => raw.writeUInt32LE(value, at),
  INT64: (raw, value, at) => raw.writeBigInt64LE(BigInt(value), at),
  UINT64: (raw, value, at) => raw.writeBigUInt64LE(BigInt(value), at),
  FP16: (raw, value, at) => raw.writeUInt16LE(halfOf(value), at),
  BF16: (raw, value, at) => raw.writeUInt16LE(bitsOf(value) >>> 16, at),
  FP32: (raw, value, at) => raw.writeFloatLE(value, at),
  FP64: (raw, value, at) => raw.writeDoubleLE(value, at),
};

const READ = {
  BOOL: (raw, at) => raw.readUInt8(at) !== 0,
  INT8: (raw, at) => raw.readInt8(at),
  UINT8: (raw, at) => raw.readUInt8(at),
  INT16: (raw, at) => raw.readInt16LE(at),
  UINT16: (raw, at) => raw.readUInt16LE(at),
  INT32: (raw, at) => raw.readInt32LE(at),
  UINT32: (raw, at) => raw.readUInt32LE(at),
  INT64: (raw, at) => raw.readBigInt64LE(at).toString(),
  UINT64: (raw, at) => raw.readBigUInt64LE(at).toString(),
  FP16: (raw, at) => fromHalf(raw.readUInt16LE(at)),
  BF16: (raw, at) => floatOf(raw.readUInt16LE(at) << 16),
  FP32: (raw, at) => raw.readFloatLE(at),
  FP64: (raw, at) => raw.readDoubleLE(at),
};

function bitsOf(value) {
  const buffer = Buffer.alloc(4);
  buffer.writeFloatLE(value);
  return buffer.readUInt32LE();
}

function floatOf(bits) {
  const buffer = Buffer.alloc(4);
  buffer.writeInt32LE(bits);
  return buffer.readFloatLE();
}

// Normal halves only: what the scenarios send.
function halfOf(value) {
  const bits = bitsOf(value);
  return ((bits >>> 16) & 0x8000) | ((((bits >>> 23) & 0xff) - 112) << 10) | ((bits >>> 13) & 0x3ff);
}

function fromHalf(half) {
  return (half & 0x8000 ? -1 : 1) * 2 ** (((half >>> 10) & 0x1f) - 15) * (1 + (half & 0x3ff) / 1024);
}

function inputsOf(tensors, form) {
  const inputs = tensors.map(({ name, datatype, shape }) => ({ name, datatype, shape }));
  if (form !== "explicit") return { inputs, raw_input_contents: tensors.map(rawBytes) };
  tensors.forEach(({ datatype, data }, index) => {
    const values = datatype === "BYTES" ? data.map((text) => Buffer.from(text, "latin1")) : data;
    inputs[index].contents = { [CONTENTS[datatype]]: values };
  });
  return { inputs };
}

function outputOf(output, raw) {
  const { datatype } = output;
  const shape = output.shape.map(Number);
  const count = shape.reduce((product, dimension) => product * dimension, 1);
  if (count > MAX_SHOWN) return { datatype, shape, data: { sha256: createHash("sha256").update(raw).digest("hex") } };
  if (raw === undefined) {
    const values = output.contents?.[CONTENTS[datatype]] ?? [];
    return { datatype, shape, data: datatype === "BYTES" ? values.map((value) => value.toString("latin1")) : values };
  }
  if (datatype !== "BYTES") {
    return { datatype, shape, data: Array.from({ length: count }, (_, i) => READ[datatype](raw, i * SIZES[datatype])) };
  }
  const data = [];
  for (let at = 0; at < raw.length; at += 4 + data.at(-1).length) {
    data.push(raw.subarray(at + 4, at + 4 + raw.readUInt32LE(at)).toString("latin1"));
  }
  return { datatype, shape, data };
}

function requestOf({ model, version, id, inputs, form, outputs, parameters }) {
  const kinds = { boolean: "bool_param", number: "int64_param", string: "string_param" };
  const given = Object.entries(parameters ?? {}).map(([name, value]) => [name, { [kinds[typeof value]]: value }]);
  return {
    model_name: model, model_version: version, id, ...inputsOf(inputs, form),
    outputs: (outputs ?? []).map((name) => ({ name })), parameters: Object.fromEntries(given),
  };
}

function answerOf(response) {
  const raw = response.raw_output_contents;
  const outputs = response.outputs.map((output, index) => [output.name, outputOf(output, raw[index])]);
  return {
    id: response.id, version: response.model_version, outputs: Object.fromEntries(outputs),
    order: outputs.map(([name]) => name),
  };
}

// --- calls

const CALLS = {
  server_live: async () => ({ live: (await call("ServerLive", {})).live }),
  server_ready: async () => ({ ready: (await call("ServerReady", {})).ready }),
  server_metadata: () => call("ServerMetadata", {}),
  shared_memory_status: async () => ({ regions: Object.keys((await call("SystemSharedMemoryStatus", {})).regions).length }),
  register_shared_memory: () => call("SystemSharedMemoryRegister", { name: "region", key: "/region", byte_size: 64 }),
  model_ready: async ({ model, version }) => ({ ready: (await call("ModelReady", { name: model, version })).ready }),
  model_metadata: async ({ model, version }) => {
    const { versions, inputs } = await call("ModelMetadata", { name: model, version });
    const described = inputs.map(({ name, datatype, shape }) => ({ name, datatype, shape: shape.map(Number) }));
    return { versions, inputs: described };
  },
  model_config: async ({ model }) => {
    const { config } = await call("ModelConfig", { name: model });
    return { max_batch_size: config.max_batch_size, decoupled: config.model_transaction_policy?.decoupled ?? false };
  },
  statistics: async ({ model }) => {
    const found = (await call("ModelStatistics", { name: model })).model_stats;
    return { success: Number(found[0].inference_stats.success.count), models: found.map(({ name }) => name) };
  },
  index: async () => ({ models: (await call("RepositoryIndex", {})).models.map(({ name }) => name) }),
  load: async ({ model }) => { await call("RepositoryModelLoad", { model_name: model }); return {}; },
  unload: async ({ model }) => { await call("RepositoryModelUnload", { model_name: model }); return {}; },
  infer: async (asked) => answerOf(await call("ModelInfer", requestOf(asked), asked.compression)),
  infer_version: (asked) => CALLS.infer(asked),
  message: async ({ message }) => ({ id: (await call("ModelInfer", withBytes(message))).id }),
  infer_many: async ({ model, count }) => {
    const ask = async (_, number) => {
      const inputs = [{ name: "int32_in", datatype: "INT32", shape: [1, 1], data: [number] }];
      const asked = { model, inputs, form: "explicit", outputs: ["int32_out"], id: `r${number}` };
      const { id, outputs } = await CALLS.infer(asked);
      return id === `r${number}` && outputs.int32_out.data[0] === number;
    };
    const right = await Promise.all(Array.from({ length: count }, ask));
    return { right: right.filter(Boolean).length };
  },
  stream: async ({ requests, answers }) => ({ answers: await streamed(requests.map(requestOf), answers) }),
  stream_text: async ({ model, prompt, max_tokens }) => {
    const sampling = JSON.stringify({ temperature: 0, max_tokens });
    const inputs = [
      { name: "text_input", datatype: "BYTES", shape: [1], data: [prompt] },
      { name: "stream", datatype: "BOOL", shape: [1], data: [true] },
      { name: "sampling_parameters", datatype: "BYTES", shape: [1], data: [sampling] },
    ];
    const request = requestOf({ model, inputs, form: "binary" });
    request.parameters.triton_enable_empty_final_response = { bool_param: true };
    const found = await streamed([request], undefined);
    const texts = found.map(({ outputs }) => outputs?.text_output?.data.join("") ?? "");
    return { pieces: texts.filter(Boolean).length, is_whole: found.at(-1).is_final === true };
  },
};

/** The scenarios have bytes as base64, as protobuf's JSON does. */
function withBytes(message) {
  const raw = message.raw_input_contents ?? [];
  return { ...message, raw_input_contents: raw.map((text) => Buffer.from(text, "base64")) };
}

/** `count` answers, or those up to the one that says that it is the last. */
function streamed(requests, count) {
  return new Promise((resolve, reject) => {
    const found = [];
    const stream = clients[""].ModelStreamInfer({ deadline: Date.now() + CALL_MS });
    stream.on("error", (error) => reject(new Failed(error)));
    stream.on("end", () => resolve(found));
    stream.on("data", ({ error_message, infer_response }) => {
      const isFinal = infer_response?.parameters?.triton_final_response?.bool_param ?? false;
      found.push(error_message ? { error: error_message } : { ...answerOf(infer_response), is_final: isFinal });
      if (found.length === count || (count === undefined && (isFinal || error_message))) stream.end();
    });
    requests.forEach((request) => stream.write(request));
  });
}

// --- scenarios

function whyNot({ call: name, arguments: asked }) {
  if (!(name in CALLS)) return `the client has no call for ${name.replaceAll("_", " ")}`;
  if ("answer" in asked) return "gRPC has no JSON";
  const isRawOnly = asked.inputs?.some(({ datatype }) => !(datatype in CONTENTS));
  return asked.form === "explicit" && isRawOnly ? "FP16 and BF16 travel only raw over gRPC" : undefined;
}

async function runStep(step) {
  const until = Date.now() + EVENTUALLY_MS;
  for (;;) {
    const found = await CALLS[step.call](step.arguments).catch((error) => {
      if (error instanceof Failed) return { error: error.code, message: error.message };
      throw error;
    });
    const isAsExpected = step.eventually === undefined || JSON.stringify(found) === JSON.stringify(step.eventually);
    if (isAsExpected || Date.now() > until) return found;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

const seen = {};
for (const { name, steps } of plan.scenarios) {
  const reason = steps.map(whyNot).find(Boolean);
  seen[name] = reason ? { cannot: reason } : { steps: [] };
  if (!reason) for (const step of steps) seen[name].steps.push(await runStep(step));
}
Object.values(clients).forEach((client) => client.close());
process.stdout.write(JSON.stringify(seen));
