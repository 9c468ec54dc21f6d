// What gradio's page doesn't do by itself. demo.py fills in what begins with a dollar.
() => {
  // Gradio says that a file is too large in English only, for some seconds.
  const refuse = (event) => {
    const { target, type } = event;
    if (!target.closest?.("#source") || (type === "change" && target.type !== "file")) return;
    document.getElementById("too-large")?.remove();
    const file = (event.dataTransfer ?? target).files?.[0];
    if (!file || file.size <= $LIMIT) return;
    event.preventDefault();
    event.stopImmediatePropagation();
    if (type === "change") target.value = "";
    const alert = document.createElement("p");
    alert.id = "too-large";
    alert.className = "alert";
    alert.role = "alert";
    const language = navigator.language.toLowerCase().startsWith("zh") ? "zh-CN" : "en";
    alert.textContent = $TOO_LARGE[language].replace("{name}", file.name);
    document.getElementById("source").after(alert);
  };
  document.addEventListener("change", refuse, true);
  document.addEventListener("drop", refuse, true);

  // Before and after are compared at one moment: one player stops the other and goes on where that was.
  const other = { before: "after", after: "before" };
  const player = (side) => document.querySelector(`#${side} audio`);
  const sideOf = (element) => element.closest("#before, #picture-before") ? "before" : "after";
  const isOurs = (element) => element.closest("#before, #after, #picture-before, #picture-after");

  document.addEventListener("loadedmetadata", ({ target }) => {
    if (isOurs(target)) target.ariaLabel = target.closest(".column").querySelector("h2").textContent;
  }, true);

  document.addEventListener("play", ({ target }) => {
    if (!isOurs(target)) return;
    const running = player(other[sideOf(target)]);
    if (!running || running.paused) return;
    target.currentTime = running.currentTime;
    running.pause();
  }, true);

  document.addEventListener("timeupdate", ({ target }) => {
    const picture = isOurs(target) && document.querySelector(`#picture-${sideOf(target)} .picture`);
    if (!picture) return;
    picture.style.setProperty("--played", target.currentTime / target.duration || 0);
    picture.style.setProperty("--playing", 1);
  }, true);

  // A click on a picture goes there; by keyboard the players' own sliders do.
  document.addEventListener("click", (event) => {
    const picture = event.target.closest(".spectrogram .picture");
    const audio = picture && player(sideOf(picture));
    if (!audio || !audio.duration) return;
    const { left, width } = picture.getBoundingClientRect();
    audio.currentTime = (audio.duration * (event.clientX - left)) / width;
  });
}
