// Draws the figures for the width they have, and sorts tables when their headings are pressed.
"use strict";

const figures = JSON.parse(document.getElementById("figure-data").textContent);
const phone = window.matchMedia("(max-width: 36rem)");
const options = {
  actions: false,
  ast: true, // expressions are interpreted, so the page's policy can forbid eval
  renderer: "svg",
  tooltip: { theme: "page", disableDefaultStyle: false },
};

async function draw(chart) {
  const figure = figures[chart.dataset.figure];
  try {
    await vegaEmbed(chart, phone.matches ? figure.narrow : figure.wide, options);
    chart.dataset.state = "drawn";
  } catch (error) {
    chart.dataset.state = "failed";
    chart.textContent = "This figure could not be drawn; its numbers are in the table below.";
    console.error(error);
  }
}

async function drawAll() {
  await Promise.all(Array.from(document.querySelectorAll(".chart"), draw));
  document.documentElement.dataset.figures = "done";
}

function sortTable(heading) {
  const table = heading.closest("table");
  const column = heading.cellIndex;
  const descending = heading.getAttribute("aria-sort") !== "descending";
  const value = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent;
  const compare = (a, b) => {
    const [x, y] = [value(a), value(b)];
    const order = x !== "" && y !== "" ? x - y : NaN;
    return Number.isNaN(order) ? x.localeCompare(y, undefined, { numeric: true }) : order;
  };
  const rows = Array.from(table.tBodies[0].rows).sort(compare);
  table.tBodies[0].append(...(descending ? rows.reverse() : rows));
  for (const other of heading.parentElement.cells) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
}

for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => sortTable(button.parentElement));
}
phone.addEventListener("change", drawAll);
drawAll();
