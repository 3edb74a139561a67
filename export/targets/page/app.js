// The page: a photograph, its upscaling by tile, and the result beside the plain enlargement.

import { Model, nameOf, sizesOf, suitable } from './model.js';
import { drawn, fitted, open, pixels, save } from './photo.js';
import { Cancelled, grid } from './tiles.js';
import { Viewer } from './viewer.js';

const MEGABYTE = 1e6;
const PERCENT = 100;
const EXTENSIONS = { 'image/png': 'png', 'image/jpeg': 'jpg' };
const $ = (id) => document.getElementById(id);
const viewer = new Viewer($('viewer'), (split) => {
  $('split').value = split * PERCENT;
});

let manifest = null;
let model = null; // the loaded one
let stale = false; // it is not what the next picture takes, but still blends the last one
let loading = null; // the one that is being loaded
let photo = null; // {name, bitmap}
let input = null; // its pixels
let result = null; // {bytes, plain, height, width}
let begun = 0; // when the first tile began
let notices = [];

function megabytes(bytes) {
  return `${(bytes / MEGABYTE).toFixed(1)} MB`;
}

function duration(seconds) {
  if (seconds < 90) return `${Math.max(1, Math.round(seconds))} s`;
  return `${Math.round(seconds / 60)} min`;
}

// Show one section: 'pick', 'ready', 'work' or 'done'.
function show(state) {
  for (const id of ['pick', 'ready', 'work', 'done']) $(id).hidden = id !== state;
  document.body.dataset.state = state;
  if (state === 'done') viewer.show();
}

function say(text) {
  $('status').textContent = text;
}

function complain(text) {
  $('problem').textContent = text;
  $('problem').hidden = !text;
}

function notice(text) {
  notices.push(text);
  $('notice').textContent = notices.join(' ');
  $('notice').hidden = false;
}

// Terms and what they are, as the list at the foot of the page.
function showFacts(facts) {
  $('facts').replaceChildren(
    ...facts.flatMap(([term, text]) => {
      const name = document.createElement('dt');
      const what = document.createElement('dd');
      name.textContent = term;
      what.textContent = text;
      return [name, what];
    }),
  );
}

function threadsOf({ model: { engine }, threads }) {
  if (engine !== 'wasm') return '';
  return threads > 1 ? `, ${threads} threads` : ', 1 thread';
}

async function describe() {
  const { models } = await suitable(manifest, $('engine').value);
  const loaded = stale ? null : model;
  const first = loaded?.model ?? models[0];
  const sizes = sizesOf(manifest, first);
  const [rows, columns] = manifest.lr_size;
  const version = manifest.web.onnxruntime_web;
  const begin = loaded
    ? `in ${duration(loaded.seconds)}${threadsOf(loaded)}`
    : 'with the first picture';
  showFacts([
    ['Engine', `${nameOf(first.engine)}, ${megabytes(sizes.engine)}, onnxruntime-web ${version}`],
    ['Model', `${first.dtype}, ${megabytes(sizes.model)}, tiles of ${columns} × ${rows}`],
    ['Loaded', begin],
  ]);
}

async function choose(file) {
  complain('');
  if (!file) return;
  try {
    photo = { name: file.name || 'photo', bitmap: await open(file) };
  } catch (error) {
    complain(error.message);
    return;
  }
  const { width, height } = photo.bitmap;
  $('large').hidden = !fitted(width, height, manifest.web.most_pixels).shrinks;
  $('large').querySelector('[value=whole]').checked = true;
  prepare();
  show('ready');
  $('start').focus();
}

// The pixels that go in, as a preview, with what they will take.
function prepare() {
  const middle = $('large').querySelector('[value=middle]').checked;
  input = pixels(photo.bitmap, manifest.web.most_pixels, middle);
  const { width, height } = input;
  $('preview').width = width;
  $('preview').height = height;
  $('preview').getContext('2d').drawImage(drawn(input), 0, 0);
  const { scale } = manifest;
  const { tiles } = grid(manifest, height, width);
  const from = `${width} × ${height}`;
  const to = `${width * scale} × ${height * scale}`;
  $('size').textContent = `${from} → ${to} pixels, ${tiles} ${tiles > 1 ? 'tiles' : 'tile'}`;
}

function told(message) {
  if (message.type === 'loading') {
    $('doing').textContent = 'Loading the engine and the model';
    $('progress').max = message.all;
    $('progress').value = message.received;
    $('rest').textContent = `${megabytes(message.received)} of ${megabytes(message.all)}`;
    if (message.received === message.all) $('doing').textContent = 'Preparing the model';
    return;
  }
  if (message.done === 0) begun = performance.now();
  const passed = (performance.now() - begun) / 1000;
  const left = (passed / message.done) * (message.all - message.done);
  $('doing').textContent = 'Upscaling';
  $('progress').max = message.all;
  $('progress').value = message.done;
  const soon = message.done ? `, about ${duration(left)} left` : '';
  $('rest').textContent = `${message.done} of ${message.all} tiles${soon}`;
}

async function loadModel(without = []) {
  const { models, reasons } = await suitable(manifest, $('engine').value);
  const left = models.filter(({ engine }) => !without.includes(engine));
  if ($('engine').value !== 'wasm' && reasons.length) {
    notice(`${reasons.join('; ')}, so the CPU computes, which is slower.`);
  }
  model = await Model.open(manifest, left, {
    tell: told,
    begin: (tried) => {
      loading = tried;
    },
    fallBack: (why) => notice(`${why}. The next engine is tried.`),
    lose: (why) => {
      notice(`${why}; the next picture takes the CPU.`);
      stale = true;
      $('engine').value = 'wasm';
    },
  }).finally(() => {
    loading = null;
  });
}

function dropModel() {
  model?.close();
  model = null;
  stale = false;
}

function strength() {
  return Number($('strength').value) / PERCENT;
}

// The picture; where the GPU fails, once more on the CPU.
async function computed() {
  if (stale) dropModel();
  if (!model) await loadModel();
  try {
    return await model.upscale(input, strength());
  } catch (error) {
    if (error instanceof Cancelled || model.model.engine === 'wasm') throw error;
    notice(`WebGPU: ${error.message}. The CPU computes instead, which is slower.`);
    dropModel();
    await loadModel(['webgpu']);
    return model.upscale(input, strength());
  }
}

async function start() {
  complain('');
  show('work');
  say('');
  $('rest').textContent = '';
  const lock = await navigator.wakeLock?.request('screen').catch(() => null);
  try {
    result = await computed();
    showResult();
  } catch (error) {
    if (error instanceof Cancelled) say('Cancelled.');
    else complain(`No picture: ${error.message}.`);
    show('ready');
  } finally {
    lock?.release();
    describe();
  }
}

function showResult() {
  const { height, width, seconds } = result;
  show('done');
  viewer.set(drawn({ ...result, bytes: result.plain }), drawn(result));
  say(`${width} × ${height} pixels in ${duration(seconds)} by ${nameOf(model.model.engine)}.`);
  $('viewer').focus();
}

let blending = false;
async function blend() {
  $('share').textContent = `${$('strength').value} %`;
  if (blending || !model || !result) return;
  blending = true;
  try {
    let shown = null;
    while (shown !== strength()) {
      shown = strength();
      result.bytes = await model.blend(shown);
    }
    viewer.set(drawn({ ...result, bytes: result.plain }), drawn(result), true);
  } finally {
    blending = false;
  }
}

function cancel() {
  if (loading) {
    loading.close();
  } else if (model) {
    $('doing').textContent = 'Ending after this tile';
    model.cancel();
  }
}

function listen() {
  for (const id of ['file', 'camera']) {
    $(id).addEventListener('change', ({ target }) => {
      choose(target.files[0]);
      target.value = '';
    });
  }
  document.addEventListener('dragover', (event) => {
    event.preventDefault();
    $('pick').classList.add('over');
  });
  document.addEventListener('dragleave', () => $('pick').classList.remove('over'));
  document.addEventListener('drop', (event) => {
    event.preventDefault();
    $('pick').classList.remove('over');
    if (document.body.dataset.state !== 'work') choose(event.dataTransfer.files[0]);
  });
  document.addEventListener('paste', (event) => {
    const [file] = event.clipboardData.files;
    if (file && document.body.dataset.state !== 'work') choose(file);
  });
  $('large').addEventListener('change', prepare);
  $('start').addEventListener('click', start);
  $('cancel').addEventListener('click', cancel);
  for (const button of document.querySelectorAll('.another')) {
    button.addEventListener('click', () => {
      say('');
      show('pick');
      $('file').focus();
    });
  }
  $('split').addEventListener('input', () => viewer.setSplit($('split').value / PERCENT));
  $('out').addEventListener('click', () => viewer.zoomBy(1 / 1.5));
  $('in').addEventListener('click', () => viewer.zoomBy(1.5));
  $('fit').addEventListener('click', () => viewer.fit());
  $('full').addEventListener('click', () => viewer.full());
  $('strength').addEventListener('input', blend);
  $('download').addEventListener('click', () => {
    const type = $('type').value;
    const stem = photo.name.replace(/\.[^.]*$/, '');
    save(result, `${stem}_x${manifest.scale}.${EXTENSIONS[type]}`, type);
  });
  $('engine').addEventListener('change', () => {
    notices = [];
    $('notice').hidden = true;
    stale = model !== null;
    describe();
  });
}

// Keep the page for use without a network; a newer one of the server is taken at the next visit.
async function install() {
  if (!('serviceWorker' in navigator)) return;
  let { version } = manifest.web;
  if (navigator.onLine) {
    const answer = await fetch('manifest.json?latest', { cache: 'no-store' }).catch(() => null);
    if (answer?.ok) version = (await answer.json()).web.version;
  }
  await navigator.serviceWorker.register(`service-worker.js?version=${version}`);
}

async function main() {
  const answer = await fetch('manifest.json');
  if (!answer.ok) throw new Error(`manifest.json could not be loaded (${answer.status})`);
  manifest = await answer.json();
  $('scale').textContent = `×${manifest.scale}`;
  const wanted = new URL(location.href).searchParams.get('engine');
  if (wanted in { auto: 0, webgpu: 0, wasm: 0 }) $('engine').value = wanted;
  listen();
  show('pick');
  await describe();
  await install();
}

main().catch((error) => complain(`This page cannot start: ${error.message}.`));
