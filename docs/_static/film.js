// One frame of a film at a time, chosen by its slider.
for (const film of document.querySelectorAll("div.film")) {
  const slider = film.querySelector("input");
  const name = film.querySelector("output");
  const frames = film.querySelectorAll("img");
  const show = () => {
    frames.forEach((frame, number) => (frame.hidden = number !== Number(slider.value)));
    name.textContent = frames[slider.value].alt;
  };
  slider.addEventListener("input", show);
  show(); // a browser may remember where the slider stood
}
