// Photographs from files, and pictures into files, by the browser's own decoders.

const WHITE = '#ffffff';

// A file's picture, upright, as the browser decodes it to sRGB.
export async function open(file) {
  try {
    return await createImageBitmap(file, { imageOrientation: 'from-image' });
  } catch {
    throw new Error(`${file.name || 'this file'} is no picture that this browser can read`);
  }
}

// The size at which a picture has at most so many pixels.
export function fitted(width, height, most) {
  const ratio = Math.min(1, Math.sqrt(most / (width * height)));
  return {
    width: Math.max(2, Math.floor(width * ratio)),
    height: Math.max(2, Math.floor(height * ratio)),
    shrinks: ratio < 1,
  };
}

// The bytes of a picture with at most so many pixels: shrunk, or its middle at full size. What is
// transparent becomes white.
export function pixels(bitmap, most, middle) {
  const { width, height } = fitted(bitmap.width, bitmap.height, most);
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext('2d', { willReadFrequently: true });
  context.fillStyle = WHITE;
  context.fillRect(0, 0, width, height);
  context.imageSmoothingQuality = 'high';
  if (middle) {
    const left = Math.floor((bitmap.width - width) / 2);
    const top = Math.floor((bitmap.height - height) / 2);
    context.drawImage(bitmap, -left, -top);
  } else {
    context.drawImage(bitmap, 0, 0, width, height);
  }
  return { bytes: context.getImageData(0, 0, width, height).data, width, height };
}

// A canvas with these bytes on it.
export function drawn({ bytes, width, height }) {
  const canvas = new OffscreenCanvas(width, height);
  canvas.getContext('2d').putImageData(new ImageData(bytes, width, height), 0, 0);
  return canvas;
}

// Offer a picture as a file.
export async function save(picture, name, type) {
  const blob = await drawn(picture).convertToBlob({ type, quality: 0.95 });
  const link = document.createElement('a');
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
