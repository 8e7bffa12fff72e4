// For every page: menus close by themselves, [data-copy] buttons copy, [data-sure] forms ask first, no form is sent twice.
// Pages work without.

document.addEventListener("click", (event) => {
  for (const menu of document.querySelectorAll("details.menu[open]")) {
    if (!menu.contains(event.target)) menu.open = false;
  }
});

document.addEventListener("keydown", (event) => {
  const menu = event.key === "Escape" && document.querySelector("details.menu[open]");
  if (menu) {
    menu.open = false;
    menu.querySelector("summary").focus();
  }
});

// Every listing gets a button that copies it, made here: without a script it would do nothing.
for (const code of document.querySelectorAll(".listing code")) {
  const button = document.createElement("button");
  Object.assign(button, { className: "copy", type: "button", textContent: document.body.dataset.copyLabel });
  Object.assign(button.dataset, { copy: code.id, copied: document.body.dataset.copiedLabel });
  code.closest(".listing").append(button);
}

// <button hidden data-copy="ID" data-copied="Copied">: shown by this script.
for (const button of document.querySelectorAll("[data-copy]")) {
  const label = button.textContent;
  button.hidden = !navigator.clipboard;
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent.trim());
    button.textContent = button.dataset.copied;
    setTimeout(() => { button.textContent = label; }, 2000);
  });
}

for (const form of document.querySelectorAll("form[data-sure]")) {
  form.addEventListener("submit", (event) => {
    if (!window.confirm(form.dataset.sure)) event.preventDefault();
  });
}

// A second press while the first is under way would make a second key. Whoever comes back by the back button may press again.
for (const form of document.querySelectorAll('form[method="post"]')) {
  form.addEventListener("submit", (event) => {
    if (event.defaultPrevented) return;
    if (form.dataset.sent) event.preventDefault();
    form.dataset.sent = "yes";
    setTimeout(() => { delete form.dataset.sent; }, 8000);
  });
}
window.addEventListener("pageshow", () => {
  for (const form of document.querySelectorAll("form[data-sent]")) delete form.dataset.sent;
});

// On a phone these bars are wider than the screen: show the part in which this page is.
for (const here of document.querySelectorAll(":is(.tabs, .choice) [aria-current]")) {
  const bar = here.parentElement;
  bar.scrollLeft = here.offsetLeft - bar.offsetLeft - (bar.clientWidth - here.offsetWidth) / 2;
}
