// Uses an exported page in Chromium, by playwright-core, and tells what happened as JSON.
// node drive.mjs '{"address": ..., "picture": ..., "out": ..., ...}'
//
// playwright-core is found as node finds modules, by NODE_PATH.

import { createRequire } from 'node:module';

const { chromium } = createRequire(import.meta.url)('playwright-core');
const {
  address,
  picture,
  out,
  browser: executablePath,
  engine = 'wasm',
  flags = [],
  rounds = 1, // how often the picture is upscaled
  strength = null, // percent
  cancel = false, // once the first tile begins; then upscale again
  offline = false, // once more, without a network
  shots = {}, // name of a state -> file
  size = [1280, 900],
  patience = 120_000, // milliseconds of one picture
} = JSON.parse(process.argv[2]);

const told = { requests: [], console: [], memory: [] };
const browser = await chromium.launch({ executablePath, args: ['--no-sandbox', ...flags] });
const context = await browser.newContext({
  viewport: { width: size[0], height: size[1] },
  acceptDownloads: true,
});
context.on('request', (request) => told.requests.push(request.url()));
const page = await context.newPage();
page.on('console', (message) => told.console.push(`${message.type()}: ${message.text()}`));
page.on('pageerror', (error) => told.console.push(`thrown: ${error.message}`));

const state = () => page.evaluate(() => document.body.dataset.state);
const shoot = async (name) => {
  if (shots[name]) await page.screenshot({ path: shots[name], fullPage: true });
};
const visible = (id) =>
  page.evaluate((name) => {
    const element = document.getElementById(name);
    return element.hidden ? '' : element.textContent;
  }, id);
const memory = () =>
  page.evaluate(async () => (await performance.measureUserAgentSpecificMemory()).bytes);

const isUpscaling = () => /of \d+ tiles/.test(document.getElementById('rest').textContent);

async function upscale(cancels = false) {
  await page.setInputFiles('#file', picture);
  await page.waitForSelector('body[data-state=ready]');
  await shoot('ready');
  told.size = await visible('size');
  await page.click('#start');
  if (cancels) {
    await page.waitForFunction(isUpscaling, null, { timeout: patience });
    await page.click('#cancel');
  }
  if (shots.work) {
    await page.waitForFunction(isUpscaling, null, { timeout: patience });
    await shoot('work');
  }
  await page.waitForFunction(
    () => document.body.dataset.state === 'done' || document.body.dataset.state === 'ready',
    null,
    { timeout: patience },
  );
}

try {
  await page.goto(`${address}?engine=${engine}`);
  await page.waitForFunction(() => document.getElementById('facts').children.length > 0);
  await page.waitForFunction(() => navigator.serviceWorker.controller);
  told.isolated = await page.evaluate(() => self.crossOriginIsolated);
  await shoot('start');
  if (cancel) {
    await upscale(true);
    told.cancelled = [await state(), await visible('status')];
  }
  for (let round = 0; round < rounds; round++) {
    await upscale();
    if (rounds > 1 && (round === 1 || round === rounds - 1)) told.memory.push(await memory());
  }
  if (strength !== null) {
    await page.fill('#strength', String(strength));
    await page.waitForTimeout(500);
  }
  told.state = await state();
  await shoot('done');
  if (out && told.state === 'done') {
    const [download] = await Promise.all([page.waitForEvent('download'), page.click('#download')]);
    told.name = download.suggestedFilename();
    await download.saveAs(out);
  }
  for (const id of ['status', 'problem', 'notice', 'facts']) told[id] = await visible(id);
  if (offline) {
    await context.setOffline(true);
    await page.reload();
    await upscale();
    told.offline = await state();
  }
} catch (error) {
  const seen = await page.evaluate(() => document.body.innerText);
  throw new Error(`${error.message}\n${seen}\n${told.console.join('\n')}`);
} finally {
  await browser.close();
}
process.stdout.write(JSON.stringify(told));
