// Shows Markdown of a model's answer, also while it is written. It makes elements and text nodes, and never parses HTML:
// so an answer cannot run a script, load an image or style the page. Links lead to http, https and mailto only.
// The server shows answers by the same rules (portal/rendering/prose.py).

const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([^`]*)$/;
const HEADING = /^ {0,3}(#{1,6})\s+(.*?)\s*#*\s*$/;
const RULE = /^ {0,3}(?:(?:\*\s*){3,}|(?:-\s*){3,}|(?:_\s*){3,})$/;
const QUOTE = /^ {0,3}> ?(.*)$/;
const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])\s+(.*)$/;
const DIVIDER = /^\s*\|?\s*:?-+:?\s*(?:\|\s*:?-+:?\s*)*\|?\s*$/;
// Deeper lists and quotations are shown as text.
const DEEPEST = 8;

function element(name, ...content) {
  const made = document.createElement(name);
  made.append(...content);
  return made;
}

// ── text within a line ──
// Every repetition has a bound, so that no answer can keep the browser busy.

const INLINE = new RegExp([
  "\\\\([\\\\`*_{}\\[\\]()#+\\-.!|<>~])", // 1: escaped
  "(?<!`)(`{1,8})(?!`)(.{1,2000}?)(?<!`)\\2(?!`)", // 2, 3: code
  "!?\\[([^\\]\\n]{0,500})\\]\\(\\s*<?([^\\s()<>]{0,2000}(?:\\([^\\s()<>]{0,500}\\)[^\\s()<>]{0,500}){0,4})>?(?:\\s+[\"'][^\"'\\n]*[\"'])?\\s*\\)", // 4, 5: link or image
  "\\*\\*(?=\\S)(.{1,1000}?)(?<=\\S)\\*\\*(?!\\*)", // 6: strong
  "(?<![\\w*])\\*(?=\\S)([^*\\n]{1,1000}?)(?<=\\S)\\*(?!\\*)", // 7: emphasis
  "(?<!\\w)__(?=\\S)(.{1,1000}?)(?<=\\S)__(?!\\w)", // 8: strong
  "(?<!\\w)_(?=\\S)([^_\\n]{1,1000}?)(?<=\\S)_(?!\\w)", // 9: emphasis
  "~~(?=\\S)(.{1,1000}?)(?<=\\S)~~", // 10: deleted
  "\\b(https?:\\/\\/[^\\s<>\"'`]+[^\\s<>\"'`.,;:!?)\\]])", // 11: an address
].join("|"), "gs");

export function isHarmless(address) {
  return /^(?:https?:\/\/|mailto:)/i.test(address);
}

function link(address, content) {
  const made = element("a", ...content);
  made.href = address;
  made.rel = "noopener noreferrer nofollow";
  made.target = "_blank";
  return made;
}

function* inline(text, depth = 0) {
  if (depth > DEEPEST) { yield text; return; }
  let at = 0;
  for (const match of text.matchAll(INLINE)) {
    if (match.index > at) yield* lines(text.slice(at, match.index));
    at = match.index + match[0].length;
    const [whole, escaped, , code, label, address, strong, emphasis, strong2, emphasis2, deleted, plain] = match;
    if (escaped !== undefined) yield escaped;
    else if (code !== undefined) yield element("code", code.replaceAll("\n", " ").replace(/^ (.*\S.*) $/, "$1"));
    else if (address !== undefined && isHarmless(address)) yield link(address, label ? inline(label, depth + 1) : [address]);
    else if (strong ?? strong2) yield element("strong", ...inline(strong ?? strong2, depth + 1));
    else if (emphasis ?? emphasis2) yield element("em", ...inline(emphasis ?? emphasis2, depth + 1));
    else if (deleted) yield element("s", ...inline(deleted, depth + 1));
    else if (plain) yield link(plain, [plain]);
    else yield whole;
  }
  if (at < text.length) yield* lines(text.slice(at));
}

// Two blanks or a backslash at the end of a line break it.
function* lines(text) {
  for (const [index, part] of text.split(/ {2,}\n|\\\n/).entries()) {
    if (index) yield element("br");
    yield part;
  }
}

// ── blocks ──

function cells(line) {
  return line.trim().replace(/^\||(?<!\\)\|$/g, "").split(/(?<!\\)\|/).map((cell) => cell.trim().replaceAll("\\|", "|"));
}

function codeBlock(text, label) {
  const code = element("code", text);
  const box = element("div", element("pre", code));
  box.className = "block";
  box.firstChild.tabIndex = 0;
  box.firstChild.setAttribute("role", "region");
  box.firstChild.setAttribute("aria-label", label || document.body.dataset.codeLabel || "Code");
  if (label) box.prepend(element("span", label.slice(0, 40)));
  return box;
}

function list(rows, depth) {
  const [, indent, mark] = ITEM.exec(rows[0]);
  const made = element(/\d/.test(mark) ? "ol" : "ul");
  if (made.tagName === "OL" && parseInt(mark, 10) !== 1) made.start = parseInt(mark, 10);
  let item = [];
  const close = () => { if (item.length) made.append(element("li", ...blocks(item, depth + 1, true))); };
  for (const row of rows) {
    const found = ITEM.exec(row);
    if (found && found[1].length <= indent.length + 1) {
      close();
      item = [found[3]];
    } else {
      item.push(row.replace(new RegExp(`^\\s{0,${indent.length + mark.length + 1}}`), ""));
    }
  }
  close();
  return made;
}

function* blocks(rows, depth = 0, isTight = false) {
  let at = 0;
  let text = [];
  function* paragraph() {
    if (!text.length) return;
    const content = inline(text.join("\n"));
    if (isTight) yield* content;
    else yield element("p", ...content);
    text = [];
  }
  while (at < rows.length) {
    const row = rows[at];
    const fence = FENCE.exec(row);
    const heading = HEADING.exec(row);
    if (fence) {
      yield* paragraph();
      const end = new RegExp(`^ {0,3}${fence[1][0]}{${fence[1].length},}\\s*$`);
      let last = at + 1;
      while (last < rows.length && !end.test(rows[last])) last += 1;
      yield codeBlock(rows.slice(at + 1, last).join("\n"), fence[2].trim());
      at = last + 1;
    } else if (heading) {
      yield* paragraph();
      // The page has headings of its own above.
      yield element(`h${Math.min(heading[1].length + 2, 6)}`, ...inline(heading[2]));
      at += 1;
    } else if (RULE.test(row)) {
      yield* paragraph();
      yield element("hr");
      at += 1;
    } else if (QUOTE.test(row) && depth < DEEPEST) {
      yield* paragraph();
      let last = at;
      while (last < rows.length && QUOTE.test(rows[last])) last += 1;
      yield element("blockquote", ...blocks(rows.slice(at, last).map((line) => QUOTE.exec(line)[1]), depth + 1));
      at = last;
    } else if (ITEM.test(row) && depth < DEEPEST) {
      yield* paragraph();
      let last = at + 1;
      // A list goes on over indented lines, and over a blank one if something indented or another item follows.
      while (last < rows.length) {
        const goesOn = ITEM.test(rows[last]) || /^\s{2,}\S/.test(rows[last]);
        const next = rows[last + 1];
        const skips = !rows[last].trim() && next !== undefined && (ITEM.test(next) || /^\s{2,}\S/.test(next));
        if (!goesOn && !skips) break;
        last += 1;
      }
      yield list(rows.slice(at, last), depth);
      at = last;
    } else if (row.includes("|") && at + 1 < rows.length && DIVIDER.test(rows[at + 1]) && rows[at + 1].includes("-")
      && cells(row).length === cells(rows[at + 1]).length) {
      yield* paragraph();
      let last = at + 2;
      while (last < rows.length && rows[last].includes("|")) last += 1;
      const line = (name, cellsOf) => element("tr", ...cellsOf.map((cell) => element(name, ...inline(cell))));
      const body = rows.slice(at + 2, last).map((found) => line("td", cells(found)));
      const box = element("div", element("table", element("thead", line("th", cells(row))), element("tbody", ...body)));
      box.className = "table";
      yield box;
      at = last;
    } else {
      if (row.trim()) text.push(row.trimStart());
      else yield* paragraph();
      at += 1;
    }
  }
  yield* paragraph();
}

export function showMarkdown(place, text) {
  place.replaceChildren(...blocks(text.replaceAll("\r\n", "\n").split("\n")));
}
