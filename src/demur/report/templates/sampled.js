// The sample of a scan: a few rows of each stratum, with the verdicts.

const OUTCOME = names("outcome"), MANNER = names("manner"), NONE = new Map();

function sampleHead(row) {
  const refused = row.outcome === "refused" || row.outcome === "partial";
  const open = row.outcome === "unjudged" || row.outcome === "degenerate";
  return [
    element("span", { class: "sign open", role: "img", "aria-label": OUTCOME.get(row.outcome) || row.outcome }, open ? "?" : refused ? "R" : "C"),
    element("span", { class: "excerpt" },
      element("span", { class: "prompt" }, row.prompt ? preview(row.prompt, 220) : "(no prompt in the log)"),
      element("span", { class: "reply" }, row.response ? preview(row.response, 220) : "(empty reply)")),
    element("span", { class: "badges" },
      badge(OUTCOME.get(row.outcome) || row.outcome),
      ...(row.manner ? [badge(MANNER.get(row.manner) || row.manner, "plain")] : []),
      badge(row.model, "plain")),
  ];
}

function sampleBody(row) {
  const facts = [["P(refused)", typeof row.p_refused === "number" ? row.p_refused.toFixed(3) : "–"], ["Judge", row.judge],
    ["Stop reason", row.stop_reason], ["Signal", row.signal], ["Stratum", row.stratum], ["Where", row.id]];
  return [
    part("Prompt", fullText(row.prompt)),
    part("Reply", fullText(row.response)),
    element("dl", { class: "facts small" }, ...facts.map(([name, value]) =>
      element("div", {}, element("dt", {}, name), element("dd", {}, isolated(String(value || "–")))))),
    element("p", { class: "links" }, element("a", { href: "#" + new URLSearchParams({ row: row.id }) }, "Link to this reply")),
  ];
}

startListing({
  rows: DATA.rows,
  filters: [
    { key: "outcome", label: "Outcome", names: OUTCOME, value: (row) => row.outcome },
    { key: "manner", label: "Manner", names: MANNER, value: (row) => row.manner || "" },
    { key: "model", label: "Model", names: NONE, value: (row) => row.model },
    { key: "stratum", label: "Stratum", names: new Map(DATA.rows.map((row) => [row.stratum, row.stratum])), value: (row) => row.stratum },
  ],
  linked: [],
  words: (row) => [row.id, row.prompt, row.response].join("\n"),
  head: sampleHead,
  body: sampleBody,
});
