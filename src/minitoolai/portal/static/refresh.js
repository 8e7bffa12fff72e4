// The log of requests: <label hidden data-refresh="ID" data-seconds="5"> with a checkbox loads that part of the page again and again.
// Without this script, a link does it once.

const choice = document.querySelector("[data-refresh]");
const box = choice.querySelector("input");
choice.hidden = false;

async function refresh() {
  if (!box.checked || document.hidden) return;
  const response = await fetch(window.location.href, { headers: { accept: "text/html" } });
  if (!response.ok || response.redirected) {
    box.checked = false;
    return;
  }
  const fresh = new DOMParser().parseFromString(await response.text(), "text/html").getElementById(choice.dataset.refresh);
  const shown = document.getElementById(choice.dataset.refresh);
  // Whoever has the keyboard in the table keeps it.
  if (fresh && box.checked && !shown.contains(document.activeElement)) shown.replaceWith(fresh);
}

setInterval(refresh, Number(choice.dataset.seconds) * 1000);
box.addEventListener("change", refresh);
