// The guide works without this. With it, a language chosen once holds for every program and for the next visit, and the
// contents show where one is.

// The agents have tabs of their own, so they have a choice of their own.
const KEYS = ["code", "agent"];
const radios = [...document.querySelectorAll(".programs input")];

function choose(tab) {
  for (const radio of radios) if (radio.value === tab) radio.checked = true;
}

for (const radio of radios) {
  radio.addEventListener("change", () => {
    const before = radio.getBoundingClientRect().top;
    choose(radio.value);
    // Programs above may have grown or shrunk: what was clicked stays where it was.
    window.scrollBy({ top: radio.getBoundingClientRect().top - before, behavior: "instant" });
    try { localStorage.setItem(KEYS[Number(radio.name === "agents")], radio.value); } catch { /* a browser that keeps nothing */ }
  });
}
try { for (const key of KEYS) choose(localStorage.getItem(key)); } catch { /* the same */ }

const links = new Map([...document.querySelectorAll(".contents a")].map((link) => [link.hash.slice(1), link]));
const headings = [...links.keys()].map((id) => document.getElementById(id));

function mark() {
  if (!headings.length) return;
  const seen = headings.findLast((heading) => heading.getBoundingClientRect().top < innerHeight / 4) ?? headings[0];
  for (const [id, link] of links) {
    if (id === seen.id) link.setAttribute("aria-current", "true");
    else link.removeAttribute("aria-current");
  }
}

let waiting = false;
addEventListener("scroll", () => {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => { waiting = false; mark(); });
}, { passive: true });
mark();
