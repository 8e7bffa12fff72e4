// A picture, watched as it comes along.
import { call, field, refusal, showCost, studio } from "./studio.js";

const NUMBERS = ["steps", "cfgScale", "width", "height", "seed"];

function request() {
  const body = { model: field("model").value, prompt: field("prompt").value, scheduler: field("scheduler").value };
  if (field("negativePrompt").value.trim()) body.negativePrompt = field("negativePrompt").value;
  for (const name of NUMBERS) if (field(name).value !== "") body[name] = Number(field(name).value);
  return body;
}

// The link names the host that the server knows itself by; the picture is on the one we are reading.
function here(address) {
  const { pathname, search } = new URL(address);
  return pathname + search;
}

// The API says "step 3 of 8", for programs.
function progress(state) {
  const { step, queued } = field("where").dataset;
  const [done, all] = state.message.match(/\d+/g) ?? [];
  return state.status === "processing" && all ? step.replace("{step}", done).replace("{steps}", all) : queued;
}

function watch(job, signal) {
  const base = `/api/texttoimage/jobs/${job.jobid}`;
  const query = `?signature=${encodeURIComponent(job.signature)}`;
  const source = new EventSource(`${base}/events${query}`);
  return new Promise((resolve, reject) => {
    signal.addEventListener("abort", () => {
      fetch(`${base}${query}`, { method: "DELETE" });
      reject(new DOMException("", "AbortError"));
    });
    source.onmessage = (event) => {
      if (event.data === "[DONE]") return;
      const state = JSON.parse(event.data);
      field("progress").value = state.progress;
      field("where").textContent = progress(state);
      if (state.status === "success") resolve(state);
      if (state.status === "error") reject(refusal(state));
    };
  }).finally(() => source.close());
}

async function ask(signal) {
  const body = request();
  const job = await (await call("/api/texttoimage/", body, signal)).json();
  field("nothing").hidden = true;
  field("figure").hidden = true;
  field("live").hidden = false;
  field("progress").value = 0;
  try {
    const state = await watch(job, signal);
    field("picture").src = here(state.image_url);
    field("picture").alt = body.prompt;
    field("caption").textContent = `${state.model}, ${field("caption").dataset.seed} ${state.seed}`;
    field("file").href = here(state.image_url);
    field("figure").hidden = false;
    await showCost(state.generation);
  } finally {
    field("live").hidden = true;
  }
}

studio("image", request, ask);
