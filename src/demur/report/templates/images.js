// The gallery of an image audit: prompts with their pictures, blurred until somebody asks for one or for all.

const CATEGORY = names("category"), EXPECTED = names("expected"), OUTCOME = names("outcome"), EVIDENCE = names("evidence");
const RIGHT = new Map([["no", "Not as it should be"], ["open", "Not decided"], ["yes", "As it should be"]]);
const CHANGED = new Map([["moved", "Moved by the policy"], ["rewritten", "Prompt changed by the vendor"], ["mixed", "Drawn and refused"]]);
const REFUSED = new Set(["blocked_input", "blocked_output", "declined_in_text", "blank"]);
const toggles = new WeakMap(); // button of a picture to the function that blurs or unblurs it
let allShown = false;

// Only base64 made by this report follows the fixed beginning: no text of a row becomes an address.
function source(place, plain) {
  const [blurred, sharp] = DATA.pictures[place];
  return "data:image/jpeg;base64," + (plain && sharp ? sharp : blurred);
}

function label(result) {
  return OUTCOME.get(result.outcome) || result.outcome;
}

function tile(row, result, number) {
  const caption = element("span", { class: "cap" }, label(result));
  if (result.picture === undefined) {
    const drawn = result.image ? " (picture not in this file)" : "";
    return element("div", { class: `tile none ${REFUSED.has(result.outcome) ? "refused" : ""}` }, label(result) + drawn);
  }
  const image = element("img", { alt: "", src: source(result.picture, false), decoding: "async" });
  image.addEventListener("error", () => image.replaceWith(element("span", { class: "cap" }, "(not readable as a picture)")));
  if (!DATA.pictures[result.picture][1]) return element("div", { class: "tile" }, image, caption);
  const about = symbolised(cut(row.prompt.replace(/\s+/g, " "), 80));
  const button = element("button", { type: "button", class: "tile", "aria-label": `Unblur picture ${number} of: ${about}. ${label(result)}` }, image, caption);
  const show = (plain) => {
    image.src = source(result.picture, plain);
    button.setAttribute("aria-pressed", String(plain));
  };
  toggles.set(button, show);
  button.addEventListener("click", () => show(button.getAttribute("aria-pressed") !== "true"));
  show(allShown);
  return button;
}

function words(text) {
  return text.length > 700 ? fullText(text) : appendText(element("p", { class: "words", dir: "auto" }), text || "(empty prompt)");
}

function revisions(row) {
  const found = new Map();
  for (const result of row.results) if (result.revised_prompt && !found.has(result.revised_prompt)) found.set(result.revised_prompt, result);
  return [...found.values()].filter((result) => folded(result.revised_prompt) !== folded(row.prompt));
}

function folded(text) {
  return text.toLowerCase().split(/\s+/).filter(Boolean).join(" ");
}

function usedInstead(result) {
  const kept = typeof result.words_kept === "number" ? `, ${Math.round(100 * result.words_kept)}% of the words kept` : "";
  return part(`${result.outcome === "rewritten" ? "Drawn instead" : "The vendor’s prompt"}${kept}`, words(result.revised_prompt));
}

function facts(result, number, count) {
  const vision = result.vision || {};
  const pairs = [["Seen in", EVIDENCE.get(result.evidence) || result.evidence], ["Code", result.code], ["Vendor’s category", result.category],
    ["Stage", result.stage], ["Status", result.http_status], ["Frame", result.frame], ["Shows what was asked", vision.faithful],
    ["Harmful", vision.harmful === undefined ? "" : vision.harmful ? "yes" : "no"], ["Spoilt", vision.degraded],
    ["Picture", result.image && result.image.slice(0, 12)]].filter(([, value]) => value);
  return part(count > 1 ? `Image ${number}: ${label(result)}` : label(result),
    element("dl", { class: "facts small" }, ...pairs.map(([name, value]) =>
      element("div", {}, element("dt", {}, name), element("dd", {}, isolated(String(value)))))),
    ...(result.detail ? [fullText(result.detail)] : []), ...(result.text ? [fullText(result.text)] : []));
}

function cameBack(row) {
  const more = element("details", { class: "more" }, element("summary", {}, "What came back"));
  const links = [element("a", { href: "#" + new URLSearchParams({ row: row.id }) }, "Link to this prompt")];
  if (row.pair_id) links.push(" · ", element("a", { href: "#" + new URLSearchParams({ pair_id: row.pair_id }) }, "Show with its twin"));
  more.addEventListener("toggle", () => {
    if (!more.open || more.childElementCount > 1) return;
    more.append(...row.results.map((result, i) => facts(result, i + 1, row.results.length)),
      element("p", { class: "n" }, isolated(row.id), " · seed ", isolated(row.seed)), element("p", { class: "links" }, ...links));
  });
  return more;
}

function card(row, open) {
  const sign = { yes: "✓", no: "✗", open: "?" }[row.right], changed = revisions(row);
  const said = row.results.find((result) => result.text && result.picture === undefined);
  const badges = element("span", { class: "badges" },
    badge(CATEGORY.get(row.category) || row.category),
    badge(EXPECTED.get(row.expected) || row.expected, `side ${row.expected}`),
    ...(row.was ? [badge(`suite: ${EXPECTED.get(row.was) || row.was}`, "warn")] : []));
  const more = cameBack(row);
  more.open = open;
  return element("article", { class: "card" },
    element("div", { class: "tiles" }, ...row.results.map((result, i) => tile(row, result, i + 1))),
    element("div", { class: "said" },
      element("div", { class: "top-line" }, element("span", { class: `sign ${row.right}`, role: "img", "aria-label": RIGHT.get(row.right) }, sign), badges),
      changed.length ? element("div", { class: "beside" }, part("Asked", words(row.prompt)), ...changed.map(usedInstead)) : words(row.prompt),
      ...(said ? [element("p", { class: "reply" }, preview(said.text, 260))] : []),
      more));
}

function changes(row) {
  const kinds = new Set(row.results.filter((r) => r.outcome in { no_image_unexplained: 1, infrastructure_error: 1 } === false).map((r) => REFUSED.has(r.outcome)));
  return [row.was && "moved", revisions(row).length && "rewritten", kinds.size > 1 && "mixed"];
}

function startSwitch() {
  const place = document.getElementById("unblur");
  if (!place || !DATA.pictures.some(([, sharp]) => sharp)) return;
  const button = element("button", { type: "button", class: "quiet switch", role: "switch", "aria-checked": "false" }, "Unblur all pictures");
  button.addEventListener("click", () => {
    allShown = !allShown;
    button.setAttribute("aria-checked", String(allShown));
    for (const one of document.querySelectorAll("button.tile")) toggles.get(one)?.(allShown);
  });
  place.append(button, element("span", { class: "n" }, "or click a picture, or press Enter on it"));
}

startSwitch();
startListing({
  rows: DATA.rows,
  filters: [
    { key: "category", label: "Category", names: CATEGORY, value: (row) => row.category },
    { key: "expected", label: "Expected", names: EXPECTED, value: (row) => row.expected },
    { key: "outcome", label: "Outcome", names: OUTCOME, values: (row) => [...new Set(row.results.map((r) => r.outcome))] },
    { key: "right", label: "As it should be", names: RIGHT, value: (row) => row.right },
    { key: "change", label: "Remarkable", names: CHANGED, values: changes },
  ],
  linked: ["pair_id", "group"],
  words: (row) => [row.id, row.prompt, row.seed, ...row.results.flatMap((r) => [r.text, r.detail, r.revised_prompt, r.code])].join("\n"),
  item: card,
  noun: ["prompt", "prompts"],
  hint: "Words in prompt, message or code",
});
