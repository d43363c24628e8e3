// The live wall: each `img.cv-live` asks for its newest picture again and again, one request at a time, and only while
// the page is in front. 304: nothing newer; anything else but a picture: the tile says that there is none.
(() => {
  const EVERY_MS = 120, AFTER_FAILURE_MS = 2000;
  const next = new WeakMap(), tags = new WeakMap();
  const ask = async (image) => {
    next.set(image, Infinity);
    let wait = EVERY_MS;
    try {
      const headers = tags.has(image) ? { "If-None-Match": tags.get(image) } : {};
      const answer = await fetch(image.dataset.src, { headers, cache: "no-store" });
      if (answer.status === 200) {
        const before = image.src;
        image.src = URL.createObjectURL(await answer.blob());
        if (before.startsWith("blob:")) URL.revokeObjectURL(before);
        tags.set(image, answer.headers.get("etag"));
        image.dataset.pictures = Number(image.dataset.pictures || 0) + 1;
        image.parentElement.classList.remove("gone");
      } else if (answer.status !== 304) {
        tags.delete(image);
        image.parentElement.classList.add("gone");
        wait = AFTER_FAILURE_MS;
      }
    } catch {
      wait = AFTER_FAILURE_MS;
    }
    next.set(image, performance.now() + wait);
  };
  setInterval(() => {
    if (document.hidden) return;
    for (const image of document.querySelectorAll("img.cv-live[data-src]"))
      if ((next.get(image) || 0) <= performance.now()) ask(image);
  }, 40);
})();
