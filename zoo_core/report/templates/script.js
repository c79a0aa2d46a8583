"use strict";
// Without this script the page is complete: it adds a filter to the gallery and a copy button, and folds definitions on a phone.
(function () {
  const form = document.getElementById("filter");
  if (form) {
    const label = document.getElementById("filter-class");
    const kind = document.getElementById("filter-kind");
    const count = document.getElementById("filter-count");
    const shots = Array.from(document.querySelectorAll("#gallery .shot"));
    const apply = function () {
      let shown = 0;
      for (const shot of shots) {
        const fits = shot.dataset.changes.split(" ").some(function (change) {
          const parts = change.split(":");
          return (!kind.value || parts[0] === kind.value) && (!label.value || parts[1] === label.value);
        });
        shot.hidden = !fits;
        shown += fits ? 1 : 0;
      }
      count.textContent = shown + " of " + shots.length + " images";
    };
    form.addEventListener("change", apply);
    form.addEventListener("submit", function (event) { event.preventDefault(); });
    form.hidden = false;
    apply();
  }
  if (window.matchMedia("(max-width: 72rem)").matches) {
    for (const details of document.querySelectorAll("details.narrow-closed")) { details.open = false; }
  }
  const text = document.getElementById("paste");
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "Copy the paragraph";
  button.addEventListener("click", function () {
    const selection = window.getSelection();
    selection.selectAllChildren(text);
    button.textContent = document.execCommand("copy") ? "Copied" : "Selected: copy it now";
  });
  text.after(button);
})();
