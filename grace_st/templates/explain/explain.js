"use strict";
// Each .pair section on its own: which numbers are shown, and what a span has in common with the other text.
// All data are in the data- attributes of the page; nothing is made from strings of HTML.
for (const pair of document.querySelectorAll(".pair")) {
  const spans = [...pair.querySelectorAll(".span")];
  const cells = [...pair.querySelectorAll(".matrix td[data-a]")];
  const sums = [...pair.querySelectorAll(".matrix td.sum")];
  const status = pair.querySelector(".status");
  const sideOf = (span) => span.closest(".side").dataset.side;
  let mode = "share";
  let selected = null;

  const shown = (value) => {
    const text = Math.abs(value).toFixed(3);
    return value < 0 && text !== "0.000" ? "\u2212" + text : text;
  };
  const paint = (element, value, largest) => {
    element.style.setProperty("--w", largest > 0 ? Math.abs(value) / largest : 0);
    element.classList.toggle("neg", value <= -0.0005); // what is not shown as 0
    const place = element.querySelector(".value") || element;
    place.textContent = shown(value);
  };
  const paintAll = (elements, value) => {
    const largest = Math.max(0, ...elements.map((element) => Math.abs(value(element))));
    for (const element of elements) paint(element, value(element), largest);
  };
  const own = (element) => Number(element.dataset[mode]);
  const columns = spans.filter((span) => sideOf(span) === "b").length;
  const cell = (a, b) => cells[Number(a) * columns + Number(b)];

  const show = (span) => {
    for (const other of spans) other.classList.toggle("active", other === span);
    for (const td of cells) td.classList.remove("lit");
    for (const side of ["a", "b"]) {
      const inSide = spans.filter((other) => sideOf(other) === side);
      if (!span || sideOf(span) === side) {
        paintAll(inSide, own);
        continue;
      }
      const between = (other) => {
        const [a, b] = side === "b" ? [span, other] : [other, span];
        return cell(a.dataset.index, b.dataset.index);
      };
      paintAll(inSide, (other) => own(between(other)));
      for (const other of inSide) between(other).classList.add("lit");
    }
    const name = span ? span.querySelector(".name").textContent : "";
    const end = mode === "share" ? `, adding up to ${span ? shown(own(span)) : ""}` : "";
    status.textContent = span ? `${name} with each span of the other text${end}` : "";
  };
  const select = (span) => {
    selected = selected === span ? null : span;
    for (const other of spans) other.setAttribute("aria-pressed", String(other === selected));
    show(selected);
  };

  for (const span of spans) {
    span.addEventListener("click", () => select(span));
    span.addEventListener("mouseenter", () => show(span));
    span.addEventListener("mouseleave", () => show(selected));
    span.addEventListener("focus", () => show(span));
    span.addEventListener("blur", () => show(selected));
  }
  for (const td of cells) {
    const partners = spans.filter((span) => span.dataset.index === td.dataset[sideOf(span)]);
    td.addEventListener("mouseenter", () => partners.forEach((span) => span.classList.add("active")));
    td.addEventListener("mouseleave", () => show(selected));
    td.addEventListener("click", () => select(partners[0]));
  }
  pair.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && selected) select(selected);
  });
  for (const input of pair.querySelectorAll(".mode input")) {
    input.addEventListener("change", () => {
      mode = input.value;
      paintAll(cells, own);
      for (const td of sums) td.textContent = shown(own(td));
      show(selected);
    });
  }
}
// A link to a document opens it.
const open = () => {
  const target = location.hash && document.getElementById(location.hash.slice(1));
  if (target instanceof HTMLDetailsElement) target.open = true;
};
addEventListener("hashchange", open);
open();
