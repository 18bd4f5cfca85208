// A remote signer (NIP-46) of other people's making.
//
//   node bunker.mjs '{"made_of": "ndk", "relay": "ws://…", "user": <secret key in hex>, "secret": "…"}'
//
// made_of: `ndk` (NDKNip46Backend), `applesauce` (NostrConnectProvider, under a key of its own), or `nostr-tools`, which
// has no signer's side: its parts, put together as its own client expects them. The wish may also hold: `invitation`
// (a nostrconnect:// URL to accept, applesauce only), `allowed` (methods; default all).
// It prints one JSON line when it listens, {"bunker": <url>}, then one for each request: {"method": …}. It ends when its
// stdin does.

import { finalizeEvent, getPublicKey } from 'nostr-tools/pure'
import { Relay } from 'nostr-tools/relay'
import * as nip04 from 'nostr-tools/nip04'
import * as nip44 from 'nostr-tools/nip44'
import { hexToBytes } from 'nostr-tools/utils'

const wish = JSON.parse(process.argv[2])
const user = hexToBytes(wish.user)
const publicKey = getPublicKey(user)

function print(line) {
  process.stdout.write(JSON.stringify(line) + '\n')
}

function allows(method) {
  print({ method })
  return !wish.allowed || wish.allowed.includes(method)
}

function url(signerKey) {
  const secret = wish.secret ? `&secret=${wish.secret}` : ''
  return `bunker://${signerKey}?relay=${encodeURIComponent(wish.relay)}${secret}`
}

async function ndk() {
  const { default: NDK, NDKNip46Backend, NDKPrivateKeySigner } = await import('@nostr-dev-kit/ndk')
  const pool = new NDK({ explicitRelayUrls: [wish.relay], enableOutboxModel: false }) // or it calls relays out there
  await pool.connect(5000)
  const permit = async ({ method }) => allows(method)
  const backend = new NDKNip46Backend(pool, new NDKPrivateKeySigner(wish.user), permit)
  let spent = false
  backend.applyToken = async (_client, token) => {
    if (token !== wish.secret || spent) throw new Error('this secret is not good, or not any more')
    spent = true
  }
  await backend.start()
  return url(publicKey)
}

async function applesauce() {
  const { NostrConnectProvider, PrivateKeySigner } = await import('applesauce-signers')
  const { Observable } = await import('rxjs')
  const relay = await Relay.connect(wish.relay)
  const provider = new NostrConnectProvider({
    relays: [wish.relay],
    upstream: new PrivateKeySigner(user),
    bunkerSecret: wish.secret,
    onSignEvent: () => allows('sign_event'),
    onNip44Decrypt: () => allows('nip44_decrypt'),
    subscriptionMethod: (_relays, filters) =>
      new Observable((out) => {
        const sub = relay.subscribe(filters, { onevent: (event) => out.next(event) })
        return () => sub.close()
      }),
    publishMethod: (_relays, event) => relay.publish(event),
  })
  await provider.start(wish.invitation)
  return url(await provider.signer.getPublicKey())
}

async function nostrTools() {
  const relay = await Relay.connect(wish.relay)
  const methods = {
    connect: ([signerKey, secret]) => {
      if (signerKey !== publicKey || (wish.secret && secret !== wish.secret)) throw new Error('not for you')
      return 'ack'
    },
    ping: () => 'pong',
    get_public_key: () => publicKey,
    sign_event: ([template]) => JSON.stringify(finalizeEvent(JSON.parse(template), user)),
    nip44_encrypt: ([peer, text]) => nip44.encrypt(text, nip44.getConversationKey(user, peer)),
    nip44_decrypt: ([peer, text]) => nip44.decrypt(text, nip44.getConversationKey(user, peer)),
    nip04_encrypt: ([peer, text]) => nip04.encrypt(user, peer, text),
    nip04_decrypt: ([peer, text]) => nip04.decrypt(user, peer, text),
  }
  async function answer(event) {
    const conversation = nip44.getConversationKey(user, event.pubkey)
    const { id, method, params } = JSON.parse(nip44.decrypt(event.content, conversation))
    let said
    try {
      if (!allows(method) || !methods[method]) throw new Error(`${method} is not allowed`)
      said = { id, result: await methods[method](params) }
    } catch (error) {
      said = { id, result: '', error: String(error.message) }
    }
    const content = nip44.encrypt(JSON.stringify(said), conversation)
    const template = { kind: 24133, created_at: event.created_at, tags: [['p', event.pubkey]], content }
    await relay.publish(finalizeEvent(template, user))
  }
  await new Promise((listening) =>
    relay.subscribe([{ kinds: [24133], '#p': [publicKey] }], { onevent: answer, oneose: listening }),
  )
  return url(publicKey)
}

const bunker = await { ndk, applesauce, 'nostr-tools': nostrTools }[wish.made_of]()
print({ bunker })
process.stdin.on('end', () => process.exit(0)).resume()
