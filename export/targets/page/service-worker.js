// Makes the page work without a network, and cross-origin isolated where its server is not able to.
//
// What the page is made of is kept when it is installed; the engine and the models when they are
// first used. The name of the cache is the version in manifest.json, which the page registers this
// file with.

const CACHE = `page-${new URL(self.location.href).searchParams.get('version')}`;
const SHELL = [
  './',
  'index.html',
  'style.css',
  'app.js',
  'model.js',
  'photo.js',
  'viewer.js',
  'worker.js',
  'session.js',
  'chain.js',
  'tiles.js',
  'colour.js',
  'manifest.json',
  'manifest.webmanifest',
  'icon.svg',
  'icon-192.png',
  'icon-512.png',
];
const ISOLATED = {
  'Cross-Origin-Opener-Policy': 'same-origin',
  'Cross-Origin-Embedder-Policy': 'require-corp',
  'Cross-Origin-Resource-Policy': 'same-origin',
};

self.addEventListener('install', (event) => {
  const fresh = SHELL.map((file) => new Request(file, { cache: 'no-cache' }));
  event.waitUntil(caches.open(CACHE).then((cache) => cache.addAll(fresh)));
});

self.addEventListener('activate', (event) => {
  event.waitUntil(
    caches.keys().then((names) => {
      const old = names.filter((name) => name.startsWith('page-') && name !== CACHE);
      return Promise.all(old.map((name) => caches.delete(name)));
    }).then(() => self.clients.claim()),
  );
});

function isolated(answer) {
  const headers = new Headers(answer.headers);
  for (const [name, value] of Object.entries(ISOLATED)) headers.set(name, value);
  const { status, statusText } = answer;
  return new Response(answer.body, { status, statusText, headers });
}

async function answerTo(request) {
  const cache = await caches.open(CACHE);
  const kept = await cache.match(request, { ignoreSearch: request.mode === 'navigate' });
  if (kept) return isolated(kept);
  const answer = await fetch(request);
  if (answer.status === 200) {
    const why = (error) => console.warn(`not kept for use without a network: ${error}`);
    cache.put(request, answer.clone()).catch(why);
  }
  return isolated(answer);
}

self.addEventListener('fetch', (event) => {
  const url = new URL(event.request.url);
  const isOurs = url.origin === self.location.origin && event.request.method === 'GET';
  // manifest.json?latest is how the page looks for a newer version of itself.
  if (isOurs && !url.searchParams.has('latest')) event.respondWith(answerTo(event.request));
});
