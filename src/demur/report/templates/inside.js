// The plane of harmfulness and refusal: which prompts are shown, and what one says under the pointer or the arrow keys.

function startPlane() {
  const plot = document.getElementById("plane-plot");
  if (!plot) return;
  const form = document.getElementById("plane-filters");
  const reading = document.getElementById("plane-reading");
  const marks = Array.from(plot.querySelectorAll(".prompt-mark"));
  const wanted = { bucket: "", category: "" };
  let current = null;

  function shown() {
    return marks.filter((mark) => !mark.hasAttribute("hidden"));
  }

  function read(mark) {
    if (current) current.classList.remove("current");
    current = mark;
    if (!mark) {
      reading.replaceChildren(idle());
      return;
    }
    mark.classList.add("current");
    const lines = mark.querySelector("title").textContent.split("\n");
    const prompt = element("p", { class: "prompt", dir: "auto" });
    prompt.append(isolated(lines.slice(0, -2).join(" ")));
    reading.replaceChildren(prompt, element("p", { class: "n" }, lines.slice(-2).join(" · ")));
  }

  function idle() {
    return element("p", { class: "n" }, `${shown().length} of ${marks.length} prompts; point at one, or use the arrow keys.`);
  }

  function filter() {
    for (const mark of marks) {
      const fits = Object.entries(wanted).every(([key, value]) => !value || mark.dataset[key] === value);
      mark.toggleAttribute("hidden", !fits);
    }
    read(null);
  }

  function choice(key, label) {
    const counts = new Map();
    for (const mark of marks) counts.set(mark.dataset[key], (counts.get(mark.dataset[key]) || 0) + 1);
    counts.delete("");
    if (counts.size < 2) return;
    const select = element("select", { id: `plane-${key}`, change: () => { wanted[key] = select.value; filter(); } });
    select.append(element("option", { value: "" }, "All"));
    for (const [value, n] of counts) select.append(element("option", { value }, `${value} (${n})`));
    form.append(element("div", { class: "field" }, element("label", { for: `plane-${key}` }, label), select));
  }

  // Along the axis of the key, so that neighbours are neighbours on the page.
  function step(event) {
    const axis = { ArrowRight: ["x", 1], ArrowLeft: ["x", -1], ArrowUp: ["y", -1], ArrowDown: ["y", 1] }[event.key];
    if (!axis) return;
    event.preventDefault();
    const order = shown().sort((a, b) => axis[1] * (parseFloat(a.getAttribute(axis[0])) - parseFloat(b.getAttribute(axis[0]))));
    if (order.length) read(order[(order.indexOf(current) + 1) % order.length]);
  }

  choice("bucket", "Kind");
  choice("category", "Category");
  form.hidden = !form.children.length;
  form.addEventListener("submit", (event) => event.preventDefault());
  plot.setAttribute("tabindex", "0");
  plot.setAttribute("role", "group");
  plot.setAttribute("aria-describedby", "plane-reading");
  plot.addEventListener("keydown", step);
  plot.addEventListener("pointerover", (event) => {
    const mark = event.target.closest(".prompt-mark");
    if (mark) read(mark);
  });
  reading.hidden = false;
  read(null);
}

startPlane();
