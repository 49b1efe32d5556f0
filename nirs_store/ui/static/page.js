// All the script there is. Everything works without it: links are links, forms are forms, figures are drawn.
"use strict";
(() => {
  const main = () => document.getElementById("main");

  // -- Filters: a change is asked for at once, and the address follows, so that it can be kept.
  let asked = 0;
  async function show(url, keep) {
    const mine = ++asked;
    const answer = await fetch(url, { headers: { Accept: "text/html" } });
    const text = await answer.text();
    if (mine !== asked) return;
    const page = new DOMParser().parseFromString(text, "text/html");
    const next = page.getElementById("main");
    if (!next) return void location.assign(url);
    const focus = document.activeElement;
    const at = focus && focus.name && focus.form ? [focus.name, focus.value, focus.selectionStart, focus.type] : null;
    const open = [...main().querySelectorAll("details")].map((each) => each.open);
    main().replaceWith(document.importNode(next, true));
    document.title = page.title;
    if (keep) history.pushState(null, "", url);
    later();
    [...main().querySelectorAll("details")].forEach((each, i) => { if (open[i]) each.open = true; });
    if (at) {
      const same = [...main().querySelectorAll(`[name="${CSS.escape(at[0])}"]`)].find((each) => at[3] !== "checkbox" || each.value === at[1]);
      if (same) {
        same.focus();
        if (at[3] === "search" || at[3] === "text") { same.value = at[1]; same.setSelectionRange(at[2], at[2]); }
      }
    }
  }
  function addressOf(form) {
    const values = new URLSearchParams([...new FormData(form)].filter(([, value]) => value !== ""));
    return `${form.getAttribute("action") || location.pathname}?${values}`;
  }
  let typing = 0;
  document.addEventListener("input", (event) => {
    const form = event.target.closest("form[data-auto]");
    if (!form) return;
    clearTimeout(typing);
    typing = setTimeout(() => show(addressOf(form), true), event.target.type === "search" ? 250 : 0);
  });
  document.addEventListener("submit", (event) => {
    const form = event.target;
    if (form.matches("form[data-auto]")) { event.preventDefault(); clearTimeout(typing); show(addressOf(form), true); }
    // Not where a file is the answer: the page stays, and its buttons are needed again.
    if (form.method === "post" && !form.matches("[data-file]")) form.querySelectorAll("button").forEach((each) => setTimeout(() => { each.disabled = true; }));
  });
  addEventListener("popstate", () => show(location.href, false));

  // -- Parts that come from an address: later ones once, live ones again and again while the page is looked at.
  async function fill(part, from) {
    const page = new DOMParser().parseFromString(await (await fetch(from, { headers: { Accept: "text/html" } })).text(), "text/html");
    const next = page.getElementById(part.id);
    if (next && next.innerHTML !== part.innerHTML && !part.contains(document.activeElement)) part.replaceWith(document.importNode(next, true));
    const links = [...document.links];
    page.querySelectorAll("[data-fills]").forEach((each) => links.filter((link) => link.pathname + link.hash === each.getAttribute("href")).forEach((link) => { link.textContent = each.textContent; }));
  }
  async function again() {
    const seconds = main() && Number(main().dataset.refresh);
    const began = performance.now();
    if (seconds && !document.hidden) {
      try {
        for (const part of document.querySelectorAll("[data-live]")) await fill(part, part.dataset.from || location.href);
        document.body.classList.remove("lost");
      } catch { document.body.classList.add("lost"); }
    }
    // A recording beside it comes first: the page takes a twentieth of the time at most.
    setTimeout(again, Math.max(1000 * (seconds || 5), 20 * (performance.now() - began)));
  }
  setTimeout(again, 1500);
  function later() {
    document.querySelectorAll("[data-later]").forEach((part) => fill(part, part.dataset.later).catch(() => {}));
  }
  later();

  // -- Figures: what a mark is, at once; and the same sample in the other figures.
  const tip = document.createElement("div");
  tip.id = "tip";
  tip.hidden = true;
  document.body.append(tip);
  document.addEventListener("pointerover", (event) => {
    const mark = event.target.closest ? event.target.closest("svg.figure .mark, svg.figure .bar, svg.figure .line") : null;
    document.querySelectorAll(".mark.same").forEach((each) => each.classList.remove("same"));
    const title = mark && mark.querySelector("title");
    tip.hidden = !title;
    if (title) {
      mark.dataset.words = title.textContent;
      title.remove(); // the browser would show it once more, later
    }
    if (mark && mark.dataset.words) {
      tip.hidden = false;
      tip.textContent = mark.dataset.words;
      tip.style.left = `${Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8)}px`;
      tip.style.top = `${Math.max(event.clientY - tip.offsetHeight - 8, 4)}px`;
    }
    if (mark && mark.dataset.key) {
      document.querySelectorAll(`.mark[data-key="${CSS.escape(mark.dataset.key)}"]`).forEach((each) => each.classList.add("same"));
    }
  });

  // -- A file may be dropped where one may be chosen.
  document.addEventListener("dragover", (event) => {
    const place = event.target.closest(".drop");
    if (place) { event.preventDefault(); place.classList.add("over"); }
  });
  document.addEventListener("dragleave", (event) => {
    const place = event.target.closest(".drop");
    if (place) place.classList.remove("over");
  });
  document.addEventListener("drop", (event) => {
    const place = event.target.closest(".drop");
    if (!place || !event.dataTransfer.files.length) return;
    event.preventDefault();
    place.querySelector("input[type=file]").files = event.dataTransfer.files;
    place.closest("form").requestSubmit();
  });
  document.addEventListener("change", (event) => {
    if (event.target.matches(".drop input[type=file]") && event.target.files.length) event.target.form.requestSubmit();
  });

  // -- Keys: "/" to search.
  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && !event.target.closest("input, textarea, select")) {
      const field = document.getElementById("find");
      if (field) { event.preventDefault(); field.focus(); }
    }
  });
})();
