// Two pictures of one size in one place, a divider between them, with zoom.

const MOST_ZOOM = 16; // screen pixels a picture's pixel
const STEP = 1.5; // of one zoom
const PAN = 40; // screen pixels of an arrow key
const GRIP = 22; // screen pixels around the divider that take hold of it

export class Viewer {
  // `onSplit` is told where the divider was dragged, 0 to 1.
  constructor(canvas, onSplit) {
    this.canvas = canvas;
    this.onSplit = onSplit;
    this.split = 0.5;
    this.pictures = null;
    this.pointers = new Map();
    this.holdsDivider = false;
    new ResizeObserver(() => this.show()).observe(canvas);
    canvas.addEventListener('pointerdown', (event) => this.press(event));
    canvas.addEventListener('pointermove', (event) => this.move(event));
    for (const kind of ['pointerup', 'pointercancel']) {
      canvas.addEventListener(kind, (event) => this.pointers.delete(event.pointerId));
    }
    canvas.addEventListener('wheel', (event) => this.turn(event), { passive: false });
    canvas.addEventListener('keydown', (event) => this.key(event));
  }

  // Show two canvases; the view stays where `keep`.
  set(before, after, keep = false) {
    this.pictures = { before, after };
    this.canvas.style.aspectRatio = `${after.width} / ${after.height}`;
    if (keep) this.draw();
    else this.fit();
  }

  setSplit(split) {
    this.split = split;
    this.draw();
  }

  get ratio() {
    return window.devicePixelRatio || 1;
  }

  // After a change of the canvas' size.
  show() {
    const { clientWidth, clientHeight } = this.canvas;
    if (!clientWidth) return;
    this.canvas.width = Math.round(clientWidth * this.ratio);
    this.canvas.height = Math.round(clientHeight * this.ratio);
    if (this.isFitted) this.fit();
    else this.draw();
  }

  // The zoom is in screen pixels a picture's pixel, x and y are the picture's corner on the screen.
  fit() {
    if (!this.pictures) return;
    const { width, height } = this.pictures.after;
    this.zoom = Math.min(this.canvas.width / width, this.canvas.height / height);
    this.x = (this.canvas.width - width * this.zoom) / 2;
    this.y = (this.canvas.height - height * this.zoom) / 2;
    this.isFitted = true;
    this.draw();
  }

  full() {
    this.zoomTo(1);
  }

  zoomBy(factor, x = this.canvas.width / 2, y = this.canvas.height / 2) {
    this.zoomTo(this.zoom * factor, x, y);
  }

  zoomTo(zoom, x = this.canvas.width / 2, y = this.canvas.height / 2) {
    if (!this.pictures) return;
    const { width, height } = this.pictures.after;
    const least = Math.min(1, this.canvas.width / width, this.canvas.height / height);
    const wanted = Math.min(MOST_ZOOM, Math.max(least, zoom));
    this.x = x - (x - this.x) * (wanted / this.zoom);
    this.y = y - (y - this.y) * (wanted / this.zoom);
    this.zoom = wanted;
    this.isFitted = false;
    this.draw();
  }

  pan(dx, dy) {
    this.x += dx;
    this.y += dy;
    this.isFitted = false;
    this.draw();
  }

  // Some of the picture stays in sight: it is centred where it is smaller than the canvas.
  keepInSight() {
    const { width, height } = this.pictures.after;
    const within = (place, side, room) =>
      side <= room ? (room - side) / 2 : Math.min(0, Math.max(room - side, place));
    this.x = within(this.x, width * this.zoom, this.canvas.width);
    this.y = within(this.y, height * this.zoom, this.canvas.height);
  }

  draw() {
    if (!this.pictures) return;
    this.keepInSight();
    const context = this.canvas.getContext('2d');
    const { width, height } = this.canvas;
    const middle = this.split * width;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, width, height);
    this.drawPart(context, this.pictures.before, 0, middle);
    this.drawPart(context, this.pictures.after, middle, width);
    context.fillStyle = '#ffffff';
    context.fillRect(middle - this.ratio, 0, 2 * this.ratio, height);
    context.beginPath();
    context.arc(middle, height / 2, 12 * this.ratio, 0, 2 * Math.PI);
    context.fill();
    context.fillStyle = '#14324a';
    context.font = `${14 * this.ratio}px system-ui`;
    context.textAlign = 'center';
    context.textBaseline = 'middle';
    context.fillText('↔', middle, height / 2);
  }

  drawPart(context, picture, from, to) {
    context.save();
    context.beginPath();
    context.rect(from, 0, to - from, this.canvas.height);
    context.clip();
    context.imageSmoothingEnabled = this.zoom < 2;
    context.imageSmoothingQuality = 'high';
    const { width, height } = picture;
    context.drawImage(picture, this.x, this.y, width * this.zoom, height * this.zoom);
    context.restore();
  }

  place(event) {
    const box = this.canvas.getBoundingClientRect();
    return [(event.clientX - box.left) * this.ratio, (event.clientY - box.top) * this.ratio];
  }

  press(event) {
    this.canvas.setPointerCapture(event.pointerId);
    const [x, y] = this.place(event);
    this.pointers.set(event.pointerId, [x, y]);
    const reach = GRIP * this.ratio;
    this.holdsDivider =
      this.pointers.size === 1 && Math.abs(x - this.split * this.canvas.width) < reach;
  }

  move(event) {
    const before = this.pointers.get(event.pointerId);
    if (!before) return;
    const [x, y] = this.place(event);
    if (this.pointers.size > 1) this.pinch(event.pointerId, [x, y]);
    else if (this.holdsDivider) this.dragDivider(x);
    else this.pan(x - before[0], y - before[1]);
    this.pointers.set(event.pointerId, [x, y]);
  }

  dragDivider(x) {
    this.setSplit(Math.min(1, Math.max(0, x / this.canvas.width)));
    this.onSplit(this.split);
  }

  pinch(moved, place) {
    const others = [...this.pointers].filter(([id]) => id !== moved);
    const [, other] = others[0];
    const before = this.pointers.get(moved);
    const apart = (a, b) => Math.hypot(a[0] - b[0], a[1] - b[1]);
    const factor = apart(place, other) / Math.max(1, apart(before, other));
    this.zoomBy(factor, (place[0] + other[0]) / 2, (place[1] + other[1]) / 2);
  }

  turn(event) {
    event.preventDefault();
    this.zoomBy(event.deltaY < 0 ? STEP : 1 / STEP, ...this.place(event));
  }

  key(event) {
    const far = PAN * this.ratio;
    const actions = {
      ArrowLeft: () => this.pan(far, 0),
      ArrowRight: () => this.pan(-far, 0),
      ArrowUp: () => this.pan(0, far),
      ArrowDown: () => this.pan(0, -far),
      '+': () => this.zoomBy(STEP),
      '=': () => this.zoomBy(STEP),
      '-': () => this.zoomBy(1 / STEP),
      0: () => this.fit(),
      1: () => this.full(),
    };
    if (!(event.key in actions)) return;
    event.preventDefault();
    actions[event.key]();
  }
}
