// One tile through the graphs of a model, with the process between them, as host/chain.py has it.
//
// A value is {data, dims}; manifest.json says which graph reads and makes which.

const { fround } = Math;
const WHOLE = 'model';

// The sum of factor * value in float32; what has the factor 0 is left out.
export function weightedSum(factors, values) {
  // The prediction first: floats do not add up in every order alike.
  const names = Object.keys(factors).filter((name) => factors[name]);
  names.sort((a, b) => (a === 'prediction' ? 0 : 1) - (b === 'prediction' ? 0 : 1));
  const { data, dims } = values[names[0]];
  const total = new Float32Array(data.length);
  names.forEach((name, i) => {
    const factor = fround(factors[name]);
    const term = values[name].data;
    for (let k = 0; k < total.length; k++) {
      total[k] = i === 0 ? factor * term[k] : total[k] + fround(factor * term[k]);
    }
  });
  return { data: total, dims };
}

const namesOf = (entries) => entries.map((entry) => entry.name);

// The graphs that can run one after the other with what is known; `known` gets what they put out.
function ready(manifest, names, known) {
  const order = [];
  const waiting = [...names];
  for (;;) {
    const at = waiting.findIndex((name) =>
      namesOf(manifest.graphs[name].inputs).every((input) => known.has(input)),
    );
    if (at < 0) return order;
    const [name] = waiting.splice(at, 1);
    order.push(name);
    namesOf(manifest.graphs[name].outputs).forEach((output) => known.add(output));
  }
}

// What a model that takes references is given without any: zeros.
function withoutReferences(manifest) {
  const kept = manifest.host.references?.kept ?? {};
  return Object.fromEntries(
    Object.entries(kept).map(([name, dims]) => {
      const count = dims.reduce((a, b) => a * b, 1);
      return [name, { data: new Float32Array(count), dims }];
    }),
  );
}

// The graphs before the process, at each step, and after it.
export function stages(manifest) {
  const each = manifest.host.each_step ?? [];
  const others = Object.keys(manifest.graphs).filter((name) => !each.includes(name));
  const known = new Set(['lr', ...Object.keys(withoutReferences(manifest))]);
  const before = ready(manifest, others, known);
  known.add('clean_latent');
  const rest = others.filter((name) => !before.includes(name));
  return { before, each, after: ready(manifest, rest, known) };
}

// Adds what a graph puts out to the values; `instead` has the values that inputs read in the place
// of those of their own names, and `makes` those that outputs are.
async function runGraph(manifest, run, name, values, instead = {}, makes = {}) {
  const { inputs, outputs } = manifest.graphs[name];
  const feeds = Object.fromEntries(
    namesOf(inputs).map((input) => [input, values[instead[input] ?? input]]),
  );
  const results = await run(name, feeds);
  for (const output of namesOf(outputs)) values[makes[output] ?? output] = results[output];
}

// What the graphs between two steps make, on the clean latent that the step before tells.
async function lookAgain(manifest, run, step, values) {
  const local = { ...values, clean: weightedSum(step.clean, values) };
  const made = {};
  for (const { graph, instead, makes } of manifest.host.between) {
    await runGraph(manifest, run, graph, local, instead, makes);
    for (const { name } of manifest.graphs[graph].outputs) {
      const value = makes[name] ?? name;
      made[value] = local[value];
    }
  }
  return made;
}

// The clean latent of a process of several steps.
async function walk(manifest, run, each, values) {
  const { host } = manifest;
  let state = weightedSum(host.start, values);
  const earlier = {};
  for (const [number, step] of host.steps.entries()) {
    const timestep = { data: BigInt64Array.from([BigInt(step.timestep)]), dims: [1] };
    const local = { ...values, ...earlier, state, timestep };
    for (const name of each) await runGraph(manifest, run, name, local, step.instead);
    earlier[`state_${number}`] = state;
    earlier[`prediction_${number}`] = local.prediction;
    if (host.between?.length && number + 1 < host.steps.length) {
      Object.assign(earlier, await lookAgain(manifest, run, step, local));
    }
    state = weightedSum(step.factors, local);
  }
  return state;
}

// A tile float32 [1, 3, h, w] -> [1, 3, scale * h, scale * w].
//
// `run` is async (name of a graph, its inputs by name) -> its outputs by name.
export async function chain(manifest, run, lr) {
  const values = { ...withoutReferences(manifest), lr };
  if (WHOLE in manifest.graphs) {
    await runGraph(manifest, run, WHOLE, values);
    return values.sr;
  }
  const { before, each, after } = stages(manifest);
  for (const name of before) await runGraph(manifest, run, name, values);
  values.clean_latent = each.length
    ? await walk(manifest, run, each, values)
    : weightedSum(manifest.host.clean_latent, values);
  for (const name of after) await runGraph(manifest, run, name, values);
  return values.image;
}
