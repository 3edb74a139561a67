// The worker with the model, seen from the page: which engine it takes, and the next if one fails.

import { lookAtGpu, threadsFor } from './session.js';
import { Cancelled } from './tiles.js';

const NAMES = { webgpu: 'WebGPU', wasm: 'the CPU' };

export function nameOf(engine) {
  return NAMES[engine];
}

// Bytes that an engine with a model downloads once: {engine, model}.
export function sizesOf(manifest, model) {
  const sum = (files) => files.reduce((total, file) => total + manifest.files[file].bytes, 0);
  return {
    engine: sum(manifest.web.engines[model.engine]),
    model: sum(Object.values(model.files)),
  };
}

// The models that suit this device, the fastest first, and why others do not.
//
//   wanted  'auto', 'webgpu' or 'wasm'
export async function suitable(manifest, wanted) {
  const reasons = [];
  let features = [];
  let hasGpu = false;
  if (wanted !== 'wasm') {
    const seen = await lookAtGpu();
    hasGpu = seen.reason === null;
    features = seen.features;
    if (!hasGpu) reasons.push(seen.reason);
  }
  const models = manifest.web.models.filter(({ engine, feature }) =>
    engine === 'webgpu' ? hasGpu && (!feature || features.includes(feature)) : true,
  );
  return { models, reasons };
}

// A model in a worker. One request runs at a time.
export class Model {
  // `tell` gets the worker's messages about progress; `lose` the reason when the GPU goes away.
  constructor({ tell, lose }) {
    this.worker = new Worker(new URL('worker.js', import.meta.url), { type: 'module' });
    this.waiting = null;
    this.worker.onmessage = ({ data }) => {
      if (data.type === 'loading' || data.type === 'tile') tell(data);
      else if (data.type === 'failed' && data.where === 'gpu' && !this.waiting) lose(data.message);
      else this.settle(data);
    };
    this.worker.onerror = (event) => {
      this.settle({ type: 'failed', message: event.message || 'the worker could not be started' });
    };
  }

  settle(data) {
    const { waiting } = this;
    this.waiting = null;
    if (!waiting) return;
    if (data.type === 'failed') waiting.reject(new Error(data.message));
    else waiting.resolve(data);
  }

  ask(message, transfer = []) {
    return new Promise((resolve, reject) => {
      this.waiting = { resolve, reject };
      this.worker.postMessage(message, transfer);
    });
  }

  // Loads the first of `models` that can be had. `told` has, beside what the constructor takes,
  // `begin`, which gets each that is tried and may close it, and `fallBack`, which is told of each
  // that cannot be had.
  static async open(manifest, models, told) {
    for (const model of models) {
      const made = new Model(told);
      told.begin(made);
      made.model = model;
      made.threads = threadsFor(self.crossOriginIsolated);
      try {
        const { seconds } = await made.ask({
          type: 'load',
          manifest,
          model,
          threads: made.threads,
        });
        made.seconds = seconds;
        return made;
      } catch (error) {
        if (error instanceof Cancelled) throw error;
        made.close();
        told.fallBack(`${nameOf(model.engine)} in ${model.dtype}: ${error.message}`);
      }
    }
    throw new Error('no engine could be loaded in this browser');
  }

  // {bytes, plain, height, width, seconds}; throws Cancelled.
  async upscale({ bytes, height, width }, strength) {
    const data = await this.ask({ type: 'upscale', bytes, height, width, strength });
    if (data.type === 'cancelled') throw new Cancelled();
    return data;
  }

  cancel() {
    this.worker.postMessage({ type: 'cancel' });
  }

  // The bytes of the last picture at another strength.
  async blend(strength) {
    return (await this.ask({ type: 'blend', strength })).bytes;
  }

  // What is being waited for is cancelled.
  close() {
    this.worker.terminate();
    this.waiting?.reject(new Cancelled());
    this.waiting = null;
  }
}

