// A file, a sample or a camera frame becomes the picture that is asked about: what is sent, and how it maps to the original.

const MAX_BYTES = 14e6; // base64 makes a third more of it, under the server's 20 MiB
const MAX_SIDE = 4096;
const SENT_AS_IS = ["image/jpeg", "image/png", "image/webp", "image/bmp"];

// {blob, url, name, wh, scale}: wh of the original, upright; scale from a sent pixel to an original one.
export async function preparePicture(blob, name) {
  const image = new Image();
  image.src = URL.createObjectURL(blob);
  try {
    await image.decode();
    const { naturalWidth: w, naturalHeight: h } = image;
    const asIs = SENT_AS_IS.includes(blob.type) && blob.size <= MAX_BYTES && w * h <= 30e6;
    const scale = asIs ? 1 : Math.max(1, Math.max(w, h) / MAX_SIDE);
    const sent = asIs ? blob : await drawn(image, w, h, 1 / scale);
    return { blob: sent, url: URL.createObjectURL(sent), name, wh: [w, h], scale };
  } finally {
    URL.revokeObjectURL(image.src);
  }
}

export function drawn(source, w, h, scale, quality = 0.92) {
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(w * scale));
  canvas.height = Math.max(1, Math.round(h * scale));
  canvas.getContext("2d").drawImage(source, 0, 0, canvas.width, canvas.height);
  return new Promise((resolve, reject) =>
    canvas.toBlob((made) => (made ? resolve(made) : reject(new Error("no blob"))), "image/jpeg", quality));
}

export function dataUrl(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(blob);
  });
}
