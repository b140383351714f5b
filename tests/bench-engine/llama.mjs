// llama.cpp (prebuilt, through node-llama-cpp) behind the line protocol of compare.py:
// `node llama.mjs MODEL.gguf THREADS`. Run where node_modules has node-llama-cpp.
import readline from "node:readline";
import { getLlama, LlamaLogLevel } from "node-llama-cpp";

const PROMPT = [504, 3575, 282, 4649, 314];
const [model_path, threads] = process.argv.slice(2);
const llama = await getLlama({ gpu: false, build: "never", maxThreads: Number(threads), logLevel: LlamaLogLevel.error });
const model = await llama.loadModel({ modelPath: model_path, useMmap: false });
const context = await model.createContext({ contextSize: 1024, batchSize: 512, threads: Number(threads), sequences: 1 });
const sequence = context.getSequence();

for await (const line of readline.createInterface({ input: process.stdin })) {
    const [prompt, answer] = line.split(" ").map(Number);
    const ids = Array.from({ length: prompt }, (_, i) => PROMPT[i % PROMPT.length]);
    await sequence.clearHistory();
    const tokens = [];
    let started = performance.now();
    let prompt_s = 0;
    for await (const token of sequence.evaluate(ids, { temperature: 0, yieldEogToken: true })) {
        if (tokens.length === 0) {
            prompt_s = (performance.now() - started) / 1000;
            started = performance.now();
        }
        tokens.push(token);
        if (tokens.length === answer) break;
    }
    const generate_s = (performance.now() - started) / 1000;
    console.log(JSON.stringify({ prompt_s, generate_s, tokens }));
}
process.exit(0);
