// A recording, from a file or the microphone, as text.
import { call, field, refusal, showCost, studio } from "./studio.js";

const record = field("record");
const label = record.textContent;
let recorder = null;
let spoken = null;
let address = "";

const chosen = () => spoken ?? field("file").files[0];

function request() {
  const fields = { model: field("model").value, file: chosen()?.name ?? "recording.mp3", task: field("task").value };
  if (field("language").value) fields.language = field("language").value;
  return fields;
}

function show(file) {
  if (address) URL.revokeObjectURL(address);
  address = file ? URL.createObjectURL(file) : "";
  field("own").hidden = !file;
  if (file) field("own").src = address;
}

async function ask(signal) {
  const { task, ...fields } = request();
  const form = new FormData();
  for (const [name, value] of Object.entries(fields)) form.append(name, name === "file" ? chosen() : value);
  form.append("stream", "true");
  const text = field("text");
  text.textContent = "";
  text.hidden = false;
  field("nothing").hidden = true;
  const answer = await call(`/v1/audio/${task === "translate" ? "translations" : "transcriptions"}`, form, signal);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) break;
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    for (const event of events) {
      if (!event.startsWith("data: ")) continue;
      const told = JSON.parse(event.slice(6));
      if (told.error) throw refusal(told.error);
      if (told.delta) text.textContent += told.delta;
      else if (told.type === "transcript.text.done") text.textContent = told.text || text.dataset.silent;
    }
  }
  await showCost(answer.headers.get("x-generation-id"));
}

async function begin() {
  const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
  const parts = [];
  recorder = new MediaRecorder(stream);
  recorder.addEventListener("dataavailable", (event) => parts.push(event.data));
  recorder.addEventListener("stop", () => {
    for (const track of stream.getTracks()) track.stop();
    const kind = recorder.mimeType.includes("mp4") ? "mp4" : "webm";
    spoken = new File(parts, `microphone.${kind}`, { type: recorder.mimeType });
    recorder = null;
    record.textContent = label;
    field("file").required = false;
    field("file").value = "";
    show(spoken);
    field("ask").dispatchEvent(new Event("input"));
  });
  recorder.start();
  record.textContent = record.dataset.stop;
}

if (navigator.mediaDevices && window.MediaRecorder) {
  field("microphone").hidden = false;
  record.addEventListener("click", () => {
    if (recorder) recorder.stop();
    else
      begin().catch(() => {
        field("error").textContent = record.dataset.fault;
        field("error").hidden = false;
      });
  });
}
field("file").addEventListener("change", () => {
  spoken = null;
  show(field("file").files[0]);
});

studio("transcription", request, ask);
