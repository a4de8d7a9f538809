// usage: node suite.mjs MODULE...   runs the cases of these modules, in order
import { main } from './harness.mjs';

for (const name of process.argv.slice(2)) await import(`./${name}.mjs`);
await main();
