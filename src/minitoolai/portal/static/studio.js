// What the parts of the studio share: the key, the request, what it cost, and the same as code.
import { programs } from "./studio-code.js";

const form = document.getElementById("ask");
const error = document.getElementById("error");
const cost = document.getElementById("cost");
const stop = document.getElementById("stop");
const send = document.getElementById("send");
const tongue = document.getElementById("tongue");
const code = document.getElementById("code");
const refusals = document.getElementById("refusals");
export const said = form.dataset;
export const field = (id) => document.getElementById(id);

// Kept in this variable and nowhere else: no other page can read it, and it is worth nothing after some minutes.
let key = "";
let goodUntil = 0;

// What the page says about a request that was refused, and the link to where one can do something about it.
class Refusal extends Error {
  constructor(words, remedy = null) {
    super(words);
    this.remedy = remedy;
  }
}

// In the language of the page: the API says it in English, for programs.
export function refusal({ code, param }) {
  const known = [...refusals.content.children].find((item) => item.dataset.code === code);
  if (!known) return new Refusal(code ? `${said.failed} (${code})` : said.failed);
  const { label, href } = known.dataset;
  return new Refusal(param ? `${known.textContent} (${param})` : known.textContent, href ? { label, href } : null);
}

function showFault(fault) {
  const words = fault.name === "AbortError" ? said.stopped : fault instanceof Refusal ? fault.message : said.failed;
  error.replaceChildren(words);
  if (fault.remedy) {
    const link = document.createElement("a");
    link.className = "button small";
    link.href = fault.remedy.href;
    link.textContent = fault.remedy.label;
    error.append(" ", link);
  }
  error.hidden = false;
}

async function freshKey() {
  if (Date.now() < goodUntil) return key;
  const fields = new URLSearchParams({ csrf: form.elements.csrf.value });
  const answer = await fetch(said.key, { method: "POST", body: fields });
  if (!answer.headers.get("content-type")?.startsWith("application/json")) {
    throw new Refusal(said.gone, { label: said.signin, href: said.signinHref });
  }
  const made = await answer.json();
  if (!made.key) throw new Refusal(made.wait_s ? said.often : said.failed);
  key = made.key;
  goodUntil = Date.now() + (made.seconds - 60) * 1000;
  return key;
}

export async function call(path, body, signal) {
  const headers = { authorization: `Bearer ${await freshKey()}` };
  const isForm = body instanceof FormData;
  if (!isForm) headers["content-type"] = "application/json";
  const answer = await fetch(path, { method: "POST", headers, body: isForm ? body : JSON.stringify(body), signal });
  if (answer.ok) return answer;
  const told = await answer.json().catch(() => ({}));
  throw refusal(told.error ?? told);
}

// What the server knows of a request: its tokens and its cost. Null if it cannot be read.
export async function generationOf(name) {
  const headers = { authorization: `Bearer ${await freshKey()}` };
  const answer = await fetch(`/v1/generations/${encodeURIComponent(name)}`, { headers });
  return answer.ok ? answer.json() : null;
}

export function dollars(amount) {
  const style = { style: "currency", currency: "USD", minimumFractionDigits: 2, maximumFractionDigits: 9 };
  return new Intl.NumberFormat(said.lang, style).format(amount);
}

export async function showCost(name) {
  const made = await generationOf(name);
  if (made) cost.textContent = `${said.cost}: ${dollars(made.cost)} · ${made.id}`;
}

// Shows the program for what the form says now.
export function showCode(kind, body) {
  code.textContent = programs[tongue.value](kind, window.location.origin, body);
}

// `ask(signal)` does the work; `request()` says what would be sent.
export function studio(kind, request, ask) {
  const refresh = () => showCode(kind, request());
  form.addEventListener("input", refresh);
  tongue.addEventListener("change", refresh);
  refresh();
  let abort = null;
  stop.addEventListener("click", () => abort?.abort());
  form.addEventListener("keydown", (event) => {
    if (event.key !== "Enter") return;
    const isChosen = event.ctrlKey || event.metaKey;
    // Enter that ends the input of a character (IME) belongs to the character. On a touch screen, Enter breaks the line.
    const isComposing = event.isComposing || event.keyCode === 229;
    const isPlain = event.target.dataset.enter === "send" && !event.shiftKey && !event.altKey && !isComposing;
    if (!isChosen && (!isPlain || matchMedia("(pointer: coarse)").matches)) return;
    event.preventDefault();
    form.requestSubmit(send);
  });
  form.addEventListener("submit", async (event) => {
    if (event.submitter?.hasAttribute("formaction")) return;
    event.preventDefault();
    if (abort) return;
    abort = new AbortController();
    error.hidden = true;
    cost.textContent = "";
    stop.hidden = false;
    send.setAttribute("aria-disabled", "true");
    try {
      await ask(abort.signal);
    } catch (fault) {
      showFault(fault);
    } finally {
      if (document.activeElement === stop) send.focus();
      abort = null;
      stop.hidden = true;
      send.removeAttribute("aria-disabled");
      refresh();
    }
  });
}
