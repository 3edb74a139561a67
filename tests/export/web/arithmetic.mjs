// Runs the page's arithmetic on cases from stdin, as JSON with floats in base64; answers likewise.
// node arithmetic.mjs FOLDER

import { readFileSync } from 'node:fs';
import { pathToFileURL } from 'node:url';

const folder = pathToFileURL(`${process.argv[2]}/`);
const colour = await import(new URL('colour.js', folder));
const tiles = await import(new URL('tiles.js', folder));
const { chain } = await import(new URL('chain.js', folder));

const floats = (text) => {
  const bytes = Buffer.from(text, 'base64');
  return new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length));
};
const text = (array) => Buffer.from(array.buffer, array.byteOffset, array.byteLength).toString('base64');
const imageOf = ({ data, height, width }) => ({ data: floats(data), height, width });

// Stand for networks; test_page_arithmetic.py has the same.
function repeated({ data, dims: [, , height, width] }, scale) {
  const made = new Float32Array(data.length * scale * scale);
  for (let i = 0; i < made.length; i++) {
    const x = i % (width * scale);
    const row = Math.floor(i / (width * scale));
    const channel = Math.floor(row / (height * scale));
    const y = row % (height * scale);
    const from = (channel * height + Math.floor(y / scale)) * width + Math.floor(x / scale);
    made[i] = data[from] + ((x + y) % 5) / 64;
  }
  return { data: made, dims: [1, 3, height * scale, width * scale] };
}
const square = ({ data, dims }) => ({ data: data.map((x) => x * x), dims });
const added = ({ state, timestep, hint }) => {
  const { data, dims } = square(state);
  const made = data.map((x) => x + Number(timestep.data[0]) / 1024);
  return { data: hint ? made.map((x, i) => x + hint.data[i] / 4) : made, dims };
};
const blended = ({ decoded, lr }) => {
  const [, , height, width] = lr.dims;
  const at = (i) => 4 * (4 * width * Math.floor(i / width) + (i % width));
  return { data: lr.data.map((x, i) => (decoded.data[at(i)] + x) / 2), dims: lr.dims };
};
const graphs = {
  encoder: ({ lr }) => ({ latent: lr }),
  hint: ({ latent }) => ({ hint: square(latent) }),
  denoiser: (values) => ({ prediction: values.state ? added(values) : square(values.latent) }),
  refine: (values) => ({ refined: blended(values) }),
  decoder: ({ clean_latent }) => ({ image: repeated(clean_latent, 4) }),
};

const answers = {
  enlarge: ({ lr, scale }) => colour.enlarge(imageOf(lr), scale).data,
  fix: ({ name, picture, lr, scale }) =>
    colour.FIXES[name](imageOf(picture), imageOf(lr), scale).data,
  bytes: ({ picture }) => colour.toBytes(imageOf(picture)),
  blend: ({ result, plain, strength }) =>
    colour.blended(
      new Uint8ClampedArray(Buffer.from(result, 'base64')),
      new Uint8ClampedArray(Buffer.from(plain, 'base64')),
      strength,
    ),
  upscale: async ({ manifest, lr }) => {
    const run = async (name, feeds) => graphs[name](feeds);
    const tile = async ({ data, height, width }) => {
      const made = await chain(manifest, run, { data, dims: [1, 3, height, width] });
      return { data: made.data, height: made.dims[2], width: made.dims[3] };
    };
    return (await tiles.upscale(manifest, imageOf(lr), tile)).data;
  },
  refusal: async ({ manifest, lr }) => {
    const tile = async ({ height, width }) => {
      const made = colour.image(height * 4, width * 4);
      made.data[made.data.length - 1] = NaN;
      return made;
    };
    const said = await tiles.upscale(manifest, imageOf(lr), tile).catch((error) => error.message);
    return Buffer.from(said);
  },
};

const results = [];
for (const { kind, ...rest } of JSON.parse(readFileSync(0, 'utf8'))) {
  results.push(text(await answers[kind](rest)));
}
process.stdout.write(JSON.stringify(results));
