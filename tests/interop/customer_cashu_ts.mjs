// A customer whose wallet is cashu-ts and whose Nostr is nostr-tools. It pays an offer from its NUT-18 request alone, and
// knows of Tradepost two things: the tags of a request (settle, lock, arbiter), and the letter by which escrow is released.
//
//   node customer_cashu_ts.mjs '{"relay": "ws://…", "mint": "http://…", "kind": 5001, "input": "a", "to": "…", "settle": "escrow", "arbiter": "…"}'
//
// It prints JSON lines as customer_nostr_tools.mjs does: request, offer, paid, result, released. Code 3: the provider said
// error; 4: nothing came in time.

import { PaymentRequest, PaymentRequestTransportType, getPubKeyFromPrivKey, signP2PKProofs } from '@cashu/cashu-ts'
import { decode } from 'nostr-tools/nip19'
import { wrapEvent } from 'nostr-tools/nip59'
import { finalizeEvent, generateSecretKey, getPublicKey, verifyEvent } from 'nostr-tools/pure'
import { Relay } from 'nostr-tools/relay'
import { bytesToHex } from 'nostr-tools/utils'
import { openWallet, payRequest } from './cashu_wallet.mjs'

const wish = { seconds: 30, ...JSON.parse(process.argv[2]) }
const secretKey = generateSecretKey()
const lockKey = generateSecretKey()
const wallet = await openWallet(wish.mint)
let paid

function print(type, fields) {
  process.stdout.write(JSON.stringify({ type, ...fields }) + '\n')
}

function makeRequest() {
  const tags = [
    ['i', wish.input, 'text'], ['p', wish.to], ['settle', wish.settle], ['mint', wish.mint],
    ['lock', bytesToHex(getPubKeyFromPrivKey(lockKey))], ['relays', wish.relay],
  ]
  if (wish.arbiter) tags.push(['arbiter', wish.arbiter])
  return finalizeEvent({ kind: wish.kind, created_at: Math.floor(Date.now() / 1000), tags, content: '' }, secretKey)
}

function tagOf(event, name) {
  return event.tags.find((tag) => tag[0] === name)
}

async function payOffer(offer) {
  print('offer', { event: offer })
  const asked = PaymentRequest.fromEncodedRequest(tagOf(offer, 'creq')[1])
  const payload = await payRequest(wallet, wish.mint, asked)
  const transport = asked.getTransport(PaymentRequestTransportType.NOSTR)
  const { pubkey } = decode(transport.target).data
  await relay.publish(wrapEvent({ kind: 14, content: JSON.stringify(payload), tags: [['p', pubkey]] }, secretKey, pubkey))
  paid = payload.proofs
  print('paid', { pubkey, proofs: paid.length })
}

async function release() {
  const signed = signP2PKProofs(paid, bytesToHex(lockKey))
  const signatures = Object.fromEntries(signed.map((proof) => [proof.secret, signatureOf(proof)]))
  const letter = {
    kind: 3957, content: JSON.stringify({ type: 'signs', signatures }), tags: [['p', wish.to], ['e', request.id]],
  }
  await relay.publish(wrapEvent(letter, secretKey, wish.to))
  print('released', { signatures: signed.length })
}

function signatureOf(proof) {
  const witness = typeof proof.witness === 'string' ? JSON.parse(proof.witness) : proof.witness
  return witness.signatures[0]
}

async function onEvent(event) {
  if (!verifyEvent(event) || event.pubkey !== wish.to) return
  const [, status, reason] = tagOf(event, 'status') ?? []
  if (status === 'payment-required' && !paid) await payOffer(event)
  if (status === 'error') {
    print('feedback', { status, info: reason, event })
    finish(3)
  }
  if (event.kind === wish.kind + 1000) {
    print('result', { content: event.content, event })
    if (wish.settle === 'escrow') await release()
    finish(0)
  }
}

function finish(code) {
  relay.close()
  process.exitCode = code
  clearTimeout(deadline)
}

const request = makeRequest()
const relay = await Relay.connect(wish.relay)
const deadline = setTimeout(() => finish(4), wish.seconds * 1000)
relay.subscribe([{ kinds: [7000, wish.kind + 1000], '#e': [request.id] }], {
  onevent(event) {
    onEvent(event).catch((error) => {
      console.error(error)
      finish(1)
    })
  },
  async oneose() {
    print('request', { event: request })
    await relay.publish(request)
  },
})
