// A Node program: the prebuilt's own addon is opened by Node, the model evaluated through its N-API classes.
// node node_addon.mjs ADDON.node MODEL.gguf N_PROMPT N_DECODE     prints the greedily chosen tokens
import {createRequire} from "node:module";
import {dirname} from "node:path";

const [addonPath, modelPath, nPrompt, nDecode] = process.argv.slice(2);
const addon = createRequire(import.meta.url)(addonPath);
addon.setLoggerLogLevel(0);
addon.loadBackends(dirname(addonPath));
await addon.init();
const model = new addon.AddonModel(modelPath, {useMmap: true, gpuLayers: 0});
if (!await model.init()) throw new Error("the model cannot be loaded");
const context = new addon.AddonContext(model, {contextSize: 256, batchSize: 64, sequences: 1, threads: 1});
if (!await context.init()) throw new Error("no context");
const tokens = Array.from({length: Number(nPrompt)}, (_, i) => (i * 7919 + 1) % 500);
const sampler = new addon.AddonSampler(model);
sampler.applyConfig({temperature: 0});
const chosen = [];
let position = 0;
for (let step = 0; step <= Number(nDecode); step++) {
    const batch = step === 0 ? tokens : [chosen.at(-1)];
    context.initBatch(batch.length);
    const outputs = Uint32Array.of(batch.length - 1);
    const [index] = context.addToBatch(0, position, Uint32Array.from(batch), outputs);
    await context.decodeBatch();
    position += batch.length;
    chosen.push(await context.sampleToken(index, sampler));
}
console.log(chosen.join(" "));
await context.dispose();
await model.dispose();
