// The graphs of a model in onnxruntime-web, loaded once.

const SLICES = 40; // reports of a download
// Stored codes of weights become floats while a graph is loaded. Otherwise onnxruntime rounds the
// other factor of their products to 8 bits.
const SETTINGS = { w8: { disable_quant_qdq: '1' } };

// iPhones and iPads, which end a page whose WASM takes several threads.
export function isApplePhone(agent = navigator) {
  return /iPad|iPhone|iPod/.test(agent.userAgent) ||
    (/Macintosh/.test(agent.userAgent) && agent.maxTouchPoints > 1);
}

// CPU threads for WASM: several only where memory may be shared between them.
export function threadsFor(isolated, agent = navigator) {
  if (!isolated || isApplePhone(agent)) return 1;
  return Math.max(1, Math.min(4, Math.floor((agent.hardwareConcurrency ?? 2) / 2)));
}

// Why WebGPU cannot be had, or the names of its features.
export async function lookAtGpu(gpu = navigator.gpu) {
  if (!gpu) return { reason: 'this browser has no WebGPU', features: [] };
  const adapter = await gpu.requestAdapter().catch(() => null);
  if (!adapter) return { reason: 'WebGPU finds no graphics processor', features: [] };
  return { reason: null, features: [...adapter.features] };
}

// The bytes of a file; `tell(received, all)` while they come. `size` is that of the manifest.
export async function download(url, size, tell) {
  const answer = await fetch(url);
  if (!answer.ok) throw new Error(`${url} could not be loaded (${answer.status})`);
  const bytes = new Uint8Array(size);
  const reader = answer.body.getReader();
  let received = 0;
  let told = 0;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    if (received + value.length > size) throw new Error(`${url} is longer than ${size} bytes`);
    bytes.set(value, received);
    received += value.length;
    if (received - told >= size / SLICES || received === size) {
      tell(received, size);
      told = received;
    }
  }
  if (received !== size) throw new Error(`${url} ended after ${received} of ${size} bytes`);
  return bytes;
}

// Load an engine and the graphs for it.
//
//   manifest  manifest.json
//   model     one of manifest.web.models
//   base      address of the page's folder
//   threads   of the CPU
//   tell      (bytes received, all bytes)
//
// Gives {run, lost, release}; `run` is what chain.js takes, `lost` settles if the GPU goes away.
export async function openModel(manifest, model, base, threads, tell) {
  const scripts = manifest.web.engines[model.engine];
  const binary = scripts.find((name) => name.endsWith('.wasm'));
  const files = [binary, ...Object.values(model.files)];
  const all = files.reduce((sum, file) => sum + manifest.files[file].bytes, 0);
  let before = 0;
  const fetched = {};
  for (const file of files) {
    const size = manifest.files[file].bytes;
    fetched[file] = await download(new URL(file, base), size, (n) => tell(before + n, all));
    before += size;
  }
  const ort = await import(new URL(scripts[0], base));
  ort.env.wasm.wasmPaths = new URL('engine/', base).href;
  ort.env.wasm.wasmBinary = fetched[binary].buffer;
  ort.env.wasm.numThreads = threads;
  ort.env.logLevel = 'error';
  const sessions = {};
  for (const [name, file] of Object.entries(model.files)) {
    sessions[name] = await ort.InferenceSession.create(fetched[file], {
      executionProviders: [model.engine],
      graphOptimizationLevel: 'all',
      extra: { session: SETTINGS[model.dtype] ?? {} },
    });
    delete fetched[file];
  }
  const device = model.engine === 'webgpu' ? await ort.env.webgpu.device : null;
  return {
    run: (name, feeds) => runSession(ort, sessions[name], manifest.graphs[name], feeds),
    lost: device ? device.lost : new Promise(() => {}),
    release: () => Promise.all(Object.values(sessions).map((session) => session.release())),
  };
}

async function runSession(ort, session, graph, feeds) {
  const tensors = {};
  for (const { name, dtype } of graph.inputs) {
    tensors[name] = new ort.Tensor(dtype, feeds[name].data, feeds[name].dims);
  }
  const results = await session.run(tensors);
  const values = {};
  for (const { name } of graph.outputs) {
    const tensor = results[name];
    values[name] = { data: await tensor.getData(), dims: tensor.dims };
  }
  Object.values(results).forEach((tensor) => tensor.dispose());
  return values;
}
