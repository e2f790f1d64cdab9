// A filterable, paged list that keeps its state in the address (#category=safety&q=...), so that a view can be linked.
// Only one page of closed entries is in the document; an entry is built when it is opened.

const PAGE = 25;

// `item` builds a whole entry from a row where a closed line with a head will not do; `noun` is what the rows are.
// A filter has `value` of a row, or `values` where a row can be of several kinds.
function startListing({ rows, filters, linked, words, head, body, item, noun = ["reply", "replies"], hint = "Words in prompt or reply" }) {
  const root = document.getElementById("listing");
  if (!root) return;
  const keys = ["q", ...filters.map((f) => f.key), ...linked, "row"];
  let state = new Map(), page = 0, found = rows, haystacks = null, timer = 0, expectedHash = null;

  const search = element("input", { type: "search", id: "filter-q", placeholder: hint, autocomplete: "off", spellcheck: "false" });
  const selects = filters.map((filter) => [filter, filterSelect(filter, rows)]);
  const reset = element("button", { type: "button", class: "quiet" }, "Clear filters");
  const status = element("p", { class: "status", role: "status" });
  const chips = element("div", { class: "chips" });
  const list = element("div", { class: "entries" });
  const pagers = [element("nav", { class: "pager", "aria-label": "Pages" }), element("nav", { class: "pager", "aria-label": "Pages, below the list" })];
  const form = element("form", { class: "filters", role: "search", "aria-label": `Filter ${noun[1]}` },
    field("Search", search, "filter-q", "wide"),
    ...selects.map(([filter, select]) => field(filter.label, select, select.id)));
  root.append(form, element("div", { class: "results" }, status, chips, reset, pagers[0]), list, pagers[1]);

  form.addEventListener("submit", (event) => event.preventDefault());
  search.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(() => set("q", search.value), 180); });
  for (const [filter, select] of selects) select.addEventListener("change", () => set(filter.key, select.value));
  reset.addEventListener("click", () => { state = new Map(); changed(); search.focus(); });
  window.addEventListener("hashchange", () => {
    if (location.hash === expectedHash || !location.hash.includes("=")) return;
    readHash();
    document.getElementById("replies-title").focus();
    root.parentElement.scrollIntoView();
  });

  function set(key, value) {
    if (value) state.set(key, value); else state.delete(key);
    state.delete("row");
    changed();
  }

  function changed() {
    page = 0;
    refresh();
    writeHash();
  }

  function readHash() {
    const given = new URLSearchParams(location.hash.slice(1));
    state = new Map(keys.filter((key) => given.get(key)).map((key) => [key, given.get(key)]));
    refresh();
    page = Math.max(0, Math.min(pages() - 1, (parseInt(given.get("page"), 10) || 1) - 1));
    show();
  }

  function writeHash() {
    const wanted = new URLSearchParams(state);
    if (page > 0) wanted.set("page", String(page + 1));
    expectedHash = wanted.size ? "#" + wanted : "#replies-title";
    try { history.replaceState(null, "", expectedHash); } catch { /* some embedded views forbid it */ }
  }

  function refresh() {
    search.value = state.get("q") || "";
    for (const [filter, select] of selects) {
      const value = state.get(filter.key) || "";
      if (value && !Array.from(select.options).some((o) => o.value === value)) select.append(element("option", { value }, value));
      select.value = value;
    }
    const wantedWords = (state.get("q") || "").toLowerCase().split(/\s+/).filter(Boolean);
    if (wantedWords.length && !haystacks) haystacks = new Map(rows.map((row) => [row, words(row).toLowerCase()]));
    found = rows.filter((row) =>
      filters.every((f) => !state.get(f.key) || valuesOf(f, row).includes(state.get(f.key))) &&
      linked.every((key) => !state.get(key) || row[key] === state.get(key)) &&
      (!state.get("row") || row.id === state.get("row")) &&
      wantedWords.every((word) => haystacks.get(row).includes(word)));
    show();
  }

  function pages() { return Math.max(1, Math.ceil(found.length / PAGE)); }

  function show() {
    const first = page * PAGE, part = found.slice(first, first + PAGE);
    const of = found.length === rows.length ? "" : ` (of ${rows.length.toLocaleString("en")})`;
    status.textContent = found.length
      ? `${(first + 1).toLocaleString("en")}–${(first + part.length).toLocaleString("en")} of ${found.length.toLocaleString("en")} ${noun[1]}${of}`
      : `No ${noun[0]} matches${of}.`;
    reset.hidden = state.size === 0;
    chips.replaceChildren(...[...linked, "row"].filter((key) => state.get(key)).map((key) =>
      element("button", { type: "button", class: "chip", "aria-label": `Remove filter ${key}`, click: () => set(key, "") },
        key === "row" ? `one ${noun[0]}: ` : `${key.replace("_id", "")}: `, preview(state.get(key), 40), " ✕")));
    list.replaceChildren(...part.map((row) => (item || entry)(row, Boolean(state.get("row")))));
    for (const pager of pagers) fillPager(pager);
  }

  function entry(row, open) {
    const details = element("details", { class: "entry" }, element("summary", {}, ...head(row)));
    details.addEventListener("toggle", () => {
      if (details.open && details.childElementCount === 1) details.append(element("div", { class: "opened" }, ...body(row)));
    });
    details.open = open;
    return details;
  }

  function fillPager(pager) {
    pager.hidden = found.length <= PAGE;
    const go = (step) => () => {
      page += step;
      show();
      writeHash();
      document.getElementById("replies-title").focus({ preventScroll: true });
      form.scrollIntoView({ block: "start" });
    };
    pager.replaceChildren(
      element("button", { type: "button", class: "quiet", disabled: page === 0, click: go(-1) }, "← Previous"),
      element("span", {}, `Page ${page + 1} of ${pages()}`),
      element("button", { type: "button", class: "quiet", disabled: page >= pages() - 1, click: go(1) }, "Next →"));
  }

  if (location.hash.includes("=")) { readHash(); root.parentElement.scrollIntoView(); } else refresh();
}

function field(label, control, id, className) {
  return element("div", { class: `field ${className || ""}` }, element("label", { for: id }, label), control);
}

function valuesOf(filter, row) {
  return filter.values ? filter.values(row) : [filter.value(row)];
}

function filterSelect(filter, rows) {
  const counts = new Map(), groups = new Map();
  for (const row of rows) {
    for (const value of valuesOf(filter, row).filter(Boolean)) {
      counts.set(value, (counts.get(value) || 0) + 1);
      if (filter.group) groups.set(value, filter.group(row));
    }
  }
  const known = [...filter.names.keys()].filter((key) => counts.has(key));
  const order = [...known, ...[...counts.keys()].filter((key) => !filter.names.has(key)).sort()];
  const option = (value) => appendText(element("option", { value }), `${filter.names.get(value) || value} (${counts.get(value)})`);
  const select = element("select", { id: `filter-${filter.key}` }, element("option", { value: "" }, "Any"));
  const labels = filter.group ? [...new Set(order.map((value) => groups.get(value)))] : [];
  for (const label of labels) {
    select.append(element("optgroup", { label: symbolised(label) }, ...order.filter((v) => groups.get(v) === label).map(option)));
  }
  if (!filter.group) select.append(...order.map(option));
  return select;
}

function symbolised(text) {
  return text.replace(INVISIBLE, symbols);
}

function badge(text, className) {
  return appendText(element("span", { class: `badge ${className || ""}` }), text);
}

function part(title, ...children) {
  return element("section", { class: "part" }, element("h4", {}, title), ...children);
}
