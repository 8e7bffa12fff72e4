import { writeFile } from "node:fs/promises";

const url = "https://ai.example.com/api/texttoimage/";
async function post(address, body, headers = {}) {
  const answer = await fetch(address, {
    method: "POST",
    headers: { "Content-Type": "application/json", ...headers },
    body: JSON.stringify(body),
  });
  return answer.json();
}
const job = await post(url, {
  model: "dreamshaper",
  prompt: "a red apple on a wooden table",
  negativePrompt: "blurry",
  scheduler: "DPM++ SDE",
  steps: 4,
  cfgScale: 2.0,
  width: 768,
  height: 512,
  seed: 7,
}, { "Authorization": "Bearer sk-…" });
if (job.status === "error") throw new Error(job.message);
let state;
do {
  await new Promise((resolve) => setTimeout(resolve, 500));
  state = await post(url + "jobs/", { jobid: job.jobid, signature: job.signature });
} while (!["success", "error"].includes(state.status));
if (state.status === "error") throw new Error(state.message);
const picture = await fetch(state.image_url);
await writeFile("picture.png", Buffer.from(await picture.arrayBuffer()));
console.log(state.image_url);
