// A customer made of nostr-tools alone, as other people's programs are. It knows NIP-90 and nothing of Tradepost.
//
//   node customer_nostr_tools.mjs '{"relay": "ws://…", "kind": 5001, "input": "a text", …}'
//
// The wish may also hold: to (public key), params {name: value}, cashu (token), bid_msat, secret_key (hex),
// encrypt ("nip44" or "nip04", as NIP-90 has it: inputs and parameters inside), seconds (30), until ("result", or "wrap" to wait for a gift wrap, which is how a refund comes).
// It prints JSON lines: request, feedback, result, wrap, rejected. Code 0: what was waited for came; 3: the provider
// said error; 4: nothing came in time, or the relay refused the request.

import { finalizeEvent, generateSecretKey, getPublicKey, verifyEvent } from 'nostr-tools/pure'
import { Relay } from 'nostr-tools/relay'
import * as nip04 from 'nostr-tools/nip04'
import * as nip44 from 'nostr-tools/nip44'
import * as nip59 from 'nostr-tools/nip59'
import { hexToBytes } from 'nostr-tools/utils'

const wish = { params: {}, seconds: 30, until: 'result', ...JSON.parse(process.argv[2]) }
const secretKey = wish.secret_key ? hexToBytes(wish.secret_key) : generateSecretKey()
const publicKey = getPublicKey(secretKey)

function print(type, fields) {
  process.stdout.write(JSON.stringify({ type, ...fields }) + '\n')
}

function makeRequest() {
  const inside = [['i', wish.input, 'text'], ...Object.entries(wish.params).map(([name, value]) => ['param', name, value])]
  const tags = wish.encrypt ? [['encrypted']] : [...inside]
  const content = wish.encrypt ? encrypt(JSON.stringify(inside)) : ''
  if (wish.to) tags.push(['p', wish.to])
  if (wish.bid_msat) tags.push(['bid', String(wish.bid_msat)])
  if (wish.cashu) tags.push(['cashu', wish.cashu])
  tags.push(['relays', wish.relay])
  return finalizeEvent({ kind: wish.kind, created_at: Math.floor(Date.now() / 1000), tags, content }, secretKey)
}

function encrypt(text) {
  if (wish.encrypt === 'nip04') return nip04.encrypt(secretKey, wish.to, text)
  return nip44.encrypt(text, nip44.getConversationKey(secretKey, wish.to))
}

function decrypt(event) {
  if (wish.encrypt === 'nip04') return nip04.decrypt(secretKey, event.pubkey, event.content)
  return nip44.decrypt(event.content, nip44.getConversationKey(secretKey, event.pubkey))
}

function tagsOf(event) {
  return tagOf(event, 'encrypted') ? [...JSON.parse(decrypt(event)), ...event.tags] : event.tags
}

function tagOf(event, name) {
  return event.tags.find((tag) => tag[0] === name)
}

function isForUs(event, request) {
  return verifyEvent(event) && tagOf(event, 'e')?.[1] === request.id && tagOf(event, 'p')?.[1] === publicKey
}

function readFeedback(event) {
  const tags = tagsOf(event)
  const [, status = '', info = ''] = tags.find((tag) => tag[0] === 'status') ?? []
  print('feedback', { status, info, tags, event })
  if (status === 'error' && wish.until === 'result') finish(3)
}

function readResult(event) {
  print('result', { content: tagOf(event, 'encrypted') ? decrypt(event) : event.content, event })
  if (wish.until === 'result') finish(0)
}

function readWrap(wrap) {
  const seal = JSON.parse(nip44.decrypt(wrap.content, nip44.getConversationKey(secretKey, wrap.pubkey)))
  const rumor = nip59.unwrapEvent(wrap, secretKey)
  if (!verifyEvent(wrap) || !verifyEvent(seal) || seal.pubkey !== rumor.pubkey) return
  print('wrap', { sender: seal.pubkey, rumor })
  if (wish.until === 'wrap') finish(0)
}

function finish(code) {
  relay.close()
  process.exitCode = code
  clearTimeout(deadline)
}

const request = makeRequest()
const relay = await Relay.connect(wish.relay)
const deadline = setTimeout(() => finish(4), wish.seconds * 1000)
relay.subscribe(
  [{ kinds: [7000, wish.kind + 1000], '#e': [request.id] }, { kinds: [1059], '#p': [publicKey] }],
  {
    onevent(event) {
      if (event.kind === 1059) readWrap(event)
      else if (!isForUs(event, request)) return
      else if (event.kind === 7000) readFeedback(event)
      else readResult(event)
    },
    async oneose() {
      print('request', { event: request })
      try {
        await relay.publish(request)
      } catch (error) {
        print('rejected', { reason: String(error) })
        finish(4)
      }
    },
  },
)
