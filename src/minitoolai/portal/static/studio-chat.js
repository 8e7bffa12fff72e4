// A conversation with one model, or the same with two of them side by side, answered as it is written.
import { call, dollars, field, generationOf, refusal, said, studio } from "./studio.js";
import { showMarkdown } from "./studio-markdown.js";

const talk = field("talk");
const cost = field("cost");
const costs = field("costs");
// Each side has a conversation of its own: what its model has said is not shown to the other.
const sides = [{ select: field("model"), messages: [] }, { select: field("model2"), messages: [] }];
// Rendering waits this long for more of the answer.
const RENDER_MS = 80;
let picture = null;

function asked() {
  const text = field("message").value;
  const content = picture ? [{ type: "text", text }, { type: "image_url", image_url: { url: picture } }] : text;
  return { role: "user", content };
}

function request(side = sides[0]) {
  const developer = field("developer").value.trim();
  const first = developer ? [{ role: "developer", content: developer }] : [];
  // Between two messages, the code shows what was sent last.
  const isBetween = !field("message").value && !picture && side.messages.length;
  const spoken = isBetween ? side.messages.slice(0, -1) : [...side.messages, asked()];
  const body = { model: side.select.value, messages: [...first, ...spoken] };
  for (const [name, id] of [["temperature", "temperature"], ["top_p", "top_p"], ["max_completion_tokens", "limit"], ["seed", "seed"]]) {
    if (field(id).value) body[name] = Number(field(id).value);
  }
  return { ...body, stream: true };
}

function part(name, className, ...content) {
  const made = document.createElement(name);
  made.className = className;
  made.append(...content);
  return made;
}

async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const one of parts) {
      if (one.startsWith("data: ") && one !== "data: [DONE]") yield JSON.parse(one.slice(6));
    }
  }
}

function showUser() {
  const item = part("div", "user", part("strong", "", talk.dataset.you), part("span", "", field("message").value));
  if (picture) {
    const image = document.createElement("img");
    image.src = picture;
    image.alt = "";
    item.append(image);
  }
  talk.append(item);
  // Where the conversation is below the form, show it.
  if (matchMedia("(max-width: 56rem)").matches) item.scrollIntoView({ block: "start" });
  return item;
}

const number = (value, digits = 0) => new Intl.NumberFormat(said.lang, { maximumFractionDigits: digits }).format(value);
const seconds = (ms) => number(ms / 1000, 2);

// What one answer took and cost. The server counts; the time to the first token is what this browser saw.
async function showMeasured(line, name, firstMs, tookMs) {
  const made = await generationOf(name);
  const parts = [talk.dataset.tokens.replace("{input}", number(made?.input_units ?? 0)).replace("{output}", number(made?.output_units ?? 0))];
  if (firstMs !== null) parts.push(talk.dataset.first.replace("{seconds}", seconds(firstMs)));
  parts.push(talk.dataset.took.replace("{seconds}", seconds(tookMs)));
  if (made) parts.push(dollars(made.cost));
  line.textContent = parts.join(" · ");
  return made;
}

function showCosts(made) {
  if (!costs || !made?.input_units) return;
  for (const row of costs.querySelectorAll("tr[data-input]")) {
    const pico = made.input_units * Number(row.dataset.input) + made.output_units * Number(row.dataset.output);
    row.querySelector(".cost").textContent = dollars(Math.ceil(pico / 1000) / 1e9);
  }
}

function showFault(place, fault) {
  const line = part("p", "fault", fault.message || said.lost);
  line.setAttribute("role", "alert");
  if (fault.remedy) {
    const link = part("a", "button small", fault.remedy.label);
    link.href = fault.remedy.href;
    line.append(" ", link);
  }
  place.append(line);
}

// Reads one answer into its place. The promise is fulfilled with what was charged.
async function read(side, body, question, answer, place, began, signal) {
  const words = part("div", "words");
  const line = part("p", "measured");
  place.append(words, line);
  let text = "";
  let firstMs = null;
  let timer = null;
  const render = () => { timer = null; showMarkdown(words, text); };
  try {
    for await (const event of events(answer)) {
      if (event.error) throw refusal(event.error);
      const more = event.choices[0]?.delta?.content ?? "";
      if (!more) continue;
      firstMs ??= performance.now() - began;
      text += more;
      timer ??= setTimeout(render, RENDER_MS);
    }
  } finally {
    clearTimeout(timer);
    render();
    const tookMs = performance.now() - began;
    if (text) side.messages.push(question, { role: "assistant", content: text });
    // What was stopped is charged a moment later.
    await new Promise((resolve) => { setTimeout(resolve, signal.aborted ? 1500 : 0); });
    side.made = await showMeasured(line, answer.headers.get("x-generation-id"), firstMs, tookMs);
  }
}

async function ask(signal) {
  const asking = sides.filter((side, index) => side.select.value && (index === 0 || side.select.value !== sides[0].select.value));
  const question = asked();
  const item = showUser();
  const began = performance.now();
  const sent = asking.map((side) => ({ side, body: request(side), made: null }));
  const answers = await Promise.allSettled(sent.map(({ body }) => call("/v1/chat/completions", body, signal)));
  if (answers.every((one) => one.status === "rejected")) {
    // Nothing was said, so nothing is lost: the message is still in its field.
    item.remove();
    throw answers[0].reason;
  }
  field("message").value = "";
  field("picture").value = "";
  picture = null;
  const box = part("div", "answers");
  talk.append(box);
  talk.setAttribute("aria-busy", "true");
  const work = answers.map(async (one, index) => {
    const { side, body } = sent[index];
    const place = part("div", "assistant", part("strong", "", body.model));
    box.append(place);
    side.made = null;
    try {
      if (one.status === "rejected") throw one.reason;
      await read(side, body, question, one.value, place, began, signal);
    } catch (fault) {
      if (fault.name === "AbortError" || answers.length === 1) throw fault;
      showFault(place, fault);
    }
  });
  const ended = await Promise.allSettled(work);
  talk.removeAttribute("aria-busy");
  const made = asking.map((side) => side.made).filter(Boolean);
  if (made.length === 1) cost.textContent = `${said.cost}: ${dollars(made[0].cost)} · ${made[0].id}`;
  else if (made.length) cost.textContent = `${said.cost}: ${dollars(made.reduce((sum, one) => sum + Math.round(one.cost * 1e9), 0) / 1e9)}`;
  showCosts(made[0]);
  const failed = ended.find((one) => one.status === "rejected");
  if (failed) throw failed.reason;
}

field("picture").addEventListener("change", () => {
  const [file] = field("picture").files;
  picture = null;
  if (!file || file.size > 10 * 1024 * 1024) { field("picture").value = ""; return; }
  const reader = new FileReader();
  reader.addEventListener("load", () => {
    picture = reader.result;
    field("ask").dispatchEvent(new Event("input"));
  });
  reader.readAsDataURL(file);
});

field("anew").addEventListener("click", () => {
  for (const side of sides) side.messages = [];
  talk.replaceChildren();
  field("message").focus();
  field("ask").dispatchEvent(new Event("input"));
});

// Saves the prompt without leaving the conversation.
field("keep").addEventListener("click", async (event) => {
  event.preventDefault();
  const { formAction, dataset } = event.currentTarget;
  const status = field("kept");
  try {
    const answer = await fetch(formAction, { method: "POST", body: new URLSearchParams(new FormData(field("ask"))) });
    status.textContent = answer.ok && answer.redirected && answer.url.includes("prompt=") ? dataset.kept : dataset.unkept;
  } catch {
    status.textContent = said.failed;
  }
});

for (const id of ["anew", "attach", "keys-about"]) field(id).hidden = false;
studio("chat", request, ask);
