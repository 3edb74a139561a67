// The model in a thread of its own. It is told {type: 'load' | 'upscale' | 'cancel' | 'blend', ...}
// and answers {type: 'loading' | 'ready' | 'tile' | 'result' | 'blended' | 'cancelled' | 'failed'}.

import { blended, enlarge, fromBytes, toBytes } from './colour.js';
import { chain } from './chain.js';
import { openModel } from './session.js';
import { Cancelled, upscale } from './tiles.js';

const BASE = new URL('./', self.location.href);
let manifest = null;
let opened = null;
let cancelled = false;
let last = null; // of the last picture: bytes of the result and of the plain enlargement

// Let messages come in, such as `cancel`: WASM computes without a pause.
function breathe() {
  return new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => {
      port1.close();
      resolve();
    };
    port2.postMessage(null);
  });
}

async function load({ model, threads, ...message }) {
  const begin = performance.now();
  manifest = message.manifest;
  opened = await openModel(manifest, model, BASE, threads, (received, all) =>
    postMessage({ type: 'loading', received, all }),
  );
  opened.lost.then(({ message: why }) =>
    postMessage({ type: 'failed', where: 'gpu', message: `the GPU was lost (${why})` }),
  );
  postMessage({ type: 'ready', seconds: (performance.now() - begin) / 1000 });
}

async function runTile(tile) {
  const dims = [1, 3, tile.height, tile.width];
  const made = await chain(manifest, opened.run, { data: tile.data, dims });
  const [, , height, width] = made.dims;
  return { data: made.data, height, width };
}

async function watch(done, all) {
  postMessage({ type: 'tile', done, all });
  await breathe();
  if (cancelled) throw new Cancelled();
}

async function picture({ bytes, height, width, strength }) {
  const begin = performance.now();
  cancelled = false;
  const lr = fromBytes(bytes, height, width);
  const made = await upscale(manifest, lr, runTile, watch);
  last = { result: toBytes(made), plain: toBytes(enlarge(lr, manifest.scale)) };
  postMessage({
    type: 'result',
    seconds: (performance.now() - begin) / 1000,
    height: made.height,
    width: made.width,
    bytes: blended(last.result, last.plain, strength),
    plain: last.plain,
  });
}

const ANSWERS = {
  load,
  upscale: picture,
  cancel: () => {
    cancelled = true;
  },
  blend: ({ strength }) => {
    if (last) {
      const bytes = blended(last.result, last.plain, strength);
      postMessage({ type: 'blended', bytes, strength });
    }
  },
};

self.onmessage = async ({ data }) => {
  try {
    await ANSWERS[data.type](data);
  } catch (error) {
    if (error instanceof Cancelled) postMessage({ type: 'cancelled' });
    else postMessage({ type: 'failed', where: data.type, message: error.message ?? String(error) });
  }
};
