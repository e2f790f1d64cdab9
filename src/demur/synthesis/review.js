"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const $ = (id) => document.getElementById(id);
  const decisions = new Map(Object.entries(data.decisions));
  const shelf = "demur-review-" + data.digest;
  const unsaved = new Map();
  let shown = [], at = 0, editing = false, sending = false, last = null;

  const text = (id, value) => { $(id).textContent = value; };
  const fill = (list, lines) => list.replaceChildren(...lines.map((line) => {
    const li = document.createElement("li");
    li.dir = "auto"; li.textContent = line;
    return li;
  }));
  const choice = (id) => decisions.get(id)?.choice ?? "undecided";
  const current = () => shown[at];

  function sift(keepPlace) {
    const wanted = $("filter").value, category = $("category").value, before = current();
    shown = data.items.filter((item) => (!category || item.category === category)
      && (wanted === "all" || choice(item.id) === wanted || (keepPlace && item === before)));
    at = Math.max(0, shown.indexOf(before));
  }

  function counts() {
    const all = data.items, kept = all.filter((i) => choice(i.id) === "keep").length;
    const dropped = all.filter((i) => choice(i.id) === "drop").length;
    const wanted = all.filter((i) => i.selected).length;
    text("counts", `${kept} kept, ${dropped} dropped, ${all.length - kept - dropped} left; ${wanted} selected`);
    $("bar-kept").style.setProperty("width", `${100 * kept / Math.max(1, all.length)}%`);
    $("bar-dropped").style.setProperty("width", `${100 * dropped / Math.max(1, all.length)}%`);
    $("track").setAttribute("aria-valuemax", String(all.length));
    $("track").setAttribute("aria-valuenow", String(kept + dropped));
  }

  function vote([judge, ...answers]) {
    const row = document.createElement("tr");
    const cells = [judge, ...answers.map((a) => (a === null ? "unread" : a ? "yes" : "no"))];
    cells.forEach((value, column) => {
      const cell = document.createElement("td");
      cell.textContent = value;
      if (column && value !== "yes") cell.className = value;
      row.append(cell);
    });
    return row;
  }

  function show() {
    counts();
    const item = current();
    $("none").hidden = Boolean(item);
    $("item").hidden = !item;
    if (!item) return;
    const decision = decisions.get(item.id), now = choice(item.id);
    text("place", `${at + 1} of ${shown.length} · ${item.category.replaceAll("_", " ")} · ${item.id}`);
    text("state", item.selected ? "" : "reserve");
    text("verdict", now === "undecided" ? "" : now === "keep" ? (decision.prompt ? "kept, rewritten" : "kept") : "dropped");
    $("verdict").className = `tag verdict ${now}`;
    text("prompt", decision?.prompt || (item.shown ?? item.prompt));
    $("prompt").className = now;
    text("why", item.why || "not said");
    text("seed", item.seed);
    text("language", item.language);
    text("alike", item.nearest ? `${item.nearest} (${item.similarity.toFixed(2)})` : "nothing");
    $("votes").replaceChildren(...item.votes.map(vote));
    const norm = data.norms[item.category] ?? { about: "", allowed: [], not_allowed: [] };
    text("policy", data.text);
    text("about", norm.about);
    fill($("allowed"), norm.allowed);
    fill($("not-allowed"), norm.not_allowed);
    $("allowed-head").hidden = !norm.allowed.length;
    $("not-allowed-head").hidden = !norm.not_allowed.length;
    $("back").disabled = at === 0;
    $("next").disabled = at === shown.length - 1;
    reasons();
  }

  // The reason is asked for after the page has moved on: it belongs to the prompt just dropped.
  function reasons() {
    const about = last && choice(last) === "drop" ? last : choice(current().id) === "drop" ? current().id : null;
    $("reasons").hidden = !about;
    for (const button of $("reasons").querySelectorAll("button")) {
      button.setAttribute("aria-pressed", String(Boolean(about) && decisions.get(about).reason === button.dataset.reason));
    }
    $("reasons").firstChild.textContent = about && about !== current().id ? `Why drop ${about}? ` : "Why? ";
    return about;
  }

  function move(step) {
    const target = shown[at + step];
    if (!target) return;
    sift(true);
    at = shown.indexOf(target);
    last = null;
    show();
  }

  function advance() {
    const from = current();
    const order = [...shown.slice(at + 1), ...shown.slice(0, at)];
    const target = order.find((item) => choice(item.id) === "undecided");
    if (target) at = shown.indexOf(target);
    else text("saved", "Everything here is decided.");
    last = choice(from.id) === "drop" ? from.id : null;
    show();
  }

  function decide(id, about) {
    decisions.set(id, { ...about, id });
    unsaved.set(id, decisions.get(id));
    save();
  }

  function choose(what) {
    const item = current();
    if (!item) return;
    const old = decisions.get(item.id);
    decide(item.id, { choice: what, prompt: what === "keep" ? old?.prompt ?? "" : "", reason: "" });
    if (what === "undecided") { last = null; show(); } else advance();
  }

  function because(reason) {
    const about = current() ? reasons() : null;
    if (!about) return;
    decide(about, { ...decisions.get(about), reason });
    reasons();
  }

  function openEditor() {
    const item = current();
    if (!item) return;
    editing = true;
    $("text").value = decisions.get(item.id)?.prompt || item.prompt;
    $("editor").hidden = false; $("actions").hidden = true; $("reasons").hidden = true;
    $("text").focus();
  }

  function closeEditor() {
    editing = false;
    $("editor").hidden = true; $("actions").hidden = false;
    $("edit").focus();
  }

  function keepEdited() {
    const item = current(), value = $("text").value.trim();
    if (!value) { trouble("Empty: drop it instead."); return; }
    closeEditor();
    decide(item.id, { choice: "keep", prompt: value === item.prompt.trim() ? "" : value, reason: "" });
    advance();
  }

  function trouble(message) { text("saved", message); $("saved").className = "trouble"; }
  function fine(message) { text("saved", message); $("saved").className = ""; }

  function post(path, body) {
    return fetch(path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body), redirect: "error" });
  }

  async function save() {
    if (!data.served) {
      unsaved.clear();
      try { localStorage.setItem(shelf, JSON.stringify([...decisions.values()])); fine("kept in this browser"); }
      catch { trouble("not kept: download before you leave"); }
      return;
    }
    if (sending) return;
    sending = true;
    try {
      while (unsaved.size) {
        const [id, decision] = unsaved.entries().next().value;
        const { choice: what, prompt, reason } = decision;
        const answer = await post("decisions", { id, choice: what, prompt, reason });
        if (!answer.ok) throw new Error((await answer.json().catch(() => ({}))).message ?? `status ${answer.status}`);
        if (unsaved.get(id) === decision) unsaved.delete(id);
      }
      fine("saved");
    } catch (error) {
      trouble(`${unsaved.size} not saved (${error instanceof TypeError ? "the server is gone" : error.message}); trying again`);
      setTimeout(save, 3000);
    } finally { sending = false; }
  }

  async function finish() {
    if (!data.served) {
      const body = JSON.stringify({ digest: data.digest, decisions: [...decisions.values()].map(
        ({ id, choice: what, prompt, reason }) => ({ id, choice: what, prompt, reason })) }, null, 1);
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([body], { type: "application/json" }));
      link.download = "decisions.json";
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 10000);
      fine("downloaded");
      return;
    }
    await save();
    if (unsaved.size) return;
    try {
      const answer = await post("finish", {}), said = (await answer.json()).message;
      if (answer.ok) fine(said); else trouble(said);
    } catch { trouble("not written: the server is gone"); }
  }

  const keys = {
    k: () => choose("keep"), d: () => choose("drop"), e: openEditor, u: () => choose("undecided"), n: () => advance(),
    arrowleft: () => move(-1), h: () => move(-1), arrowright: () => move(1), l: () => move(1),
    1: () => because("not allowed"), 2: () => because("not alarming"), 3: () => because("unnatural"),
    4: () => because("duplicate"), 5: () => because("other"),
  };
  document.addEventListener("keydown", (event) => {
    if (editing) {
      if (event.key === "Escape") { event.preventDefault(); closeEditor(); show(); }
      else if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); keepEdited(); }
      return;
    }
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || event.target.closest("select, textarea")) return;
    const action = keys[event.key.toLowerCase()];
    if (action) { event.preventDefault(); action(); }
  });
  const clicks = { keep: keys.k, drop: keys.d, edit: keys.e, undo: keys.u, back: keys.h, next: keys.l, finish,
    "edit-save": keepEdited, "edit-cancel": () => { closeEditor(); show(); } };
  for (const [id, action] of Object.entries(clicks)) $(id).addEventListener("click", action);
  for (const button of $("reasons").querySelectorAll("button")) button.addEventListener("click", () => because(button.dataset.reason));
  for (const id of ["filter", "category"]) $(id).addEventListener("change", () => { last = null; sift(false); at = 0; show(); $(id).blur(); });
  window.addEventListener("beforeunload", (event) => { if (unsaved.size) event.preventDefault(); });

  if (!data.served) {
    try {
      for (const decision of JSON.parse(localStorage.getItem(shelf) ?? "[]")) decisions.set(decision.id, decision);
    } catch { trouble("this browser keeps nothing: download before you leave"); }
  }
  for (const name of new Set(data.items.map((item) => item.category))) {
    const option = document.createElement("option");
    option.value = name; option.textContent = name.replaceAll("_", " ");
    $("category").append(option);
  }
  text("name", data.name);
  text("finish", data.served ? "Write the suite" : "Download decisions");
  sift(false);
  at = Math.max(0, shown.findIndex((item) => choice(item.id) === "undecided"));
  show();
})();
