// A wallet behind Nostr Wallet Connect, made of nostr-tools: node nwc_wallet.mjs '{"relay": …, "secret_key": …,
// "client": …, "encryption": "nip44" or "nip04", "bills": [{"amount", "invoice", "payment_hash", "preimage"}], "msat": …}'.
// It says {"type": "ready"} and each request it got, as JSON lines; on stdin it takes lines: {"paid": payment_hash}
// (somebody paid our invoice: settle and notify), {"mode": "normal" | "silent" | "lose" | "fail" | "rubbish"}.

import { createInterface } from 'node:readline'
import { finalizeEvent, getPublicKey, verifyEvent } from 'nostr-tools/pure'
import { Relay } from 'nostr-tools/relay'
import * as nip04 from 'nostr-tools/nip04'
import * as nip44 from 'nostr-tools/nip44'
import { hexToBytes } from 'nostr-tools/utils'

const wish = JSON.parse(process.argv[2])
const secretKey = hexToBytes(wish.secret_key)
const bills = new Map(wish.bills.map((bill) => [bill.payment_hash, { ...bill, state: 'pending', type: 'incoming' }]))
const payments = new Map()
let msat = wish.msat
let mode = 'normal'

const say = (line) => process.stdout.write(JSON.stringify(line) + '\n')
const now = () => Math.floor(Date.now() / 1000)
const shared = nip44.getConversationKey(secretKey, wish.client)
const encrypt = (text) => (wish.encryption === 'nip04' ? nip04.encrypt(secretKey, wish.client, text) : nip44.encrypt(text, shared))
const decrypt = (text) => (wish.encryption === 'nip04' ? nip04.decrypt(secretKey, wish.client, text) : nip44.decrypt(text, shared))

async function publish(kind, tags, content) {
  await relay.publish(finalizeEvent({ kind, tags, content, created_at: now() }, secretKey))
}

function refuse(code, message) {
  throw { code, message }
}

function pay({ invoice }) {
  const bill = wish.theirs.find((one) => one.invoice === invoice)
  if (mode === 'fail') {
    payments.set(bill.payment_hash, { ...bill, type: 'outgoing', state: 'failed' })
    refuse('PAYMENT_FAILED', 'no route')
  }
  if (bill.amount > msat) refuse('INSUFFICIENT_BALANCE', 'not enough')
  if (payments.has(bill.payment_hash)) refuse('OTHER', 'paid before')
  msat -= bill.amount + 3
  payments.set(bill.payment_hash, { ...bill, type: 'outgoing', state: 'settled', fees_paid: 3 })
  return { preimage: bill.preimage, fees_paid: 3 }
}

const methods = {
  get_info: () => ({ alias: 'nostr-tools', methods: Object.keys(methods) }),
  get_balance: () => ({ balance: msat }),
  make_invoice({ amount, description_hash }) {
    const bill = [...bills.values()].find((one) => one.amount === amount && !one.taken)
    bill.taken = true
    return { type: 'incoming', state: 'pending', invoice: bill.invoice, payment_hash: bill.payment_hash, amount, description_hash, created_at: now() }
  },
  lookup_invoice({ payment_hash }) {
    const found = bills.get(payment_hash) ?? payments.get(payment_hash)
    if (!found) refuse('NOT_FOUND', 'never heard of it')
    return { ...found, fees_paid: found.fees_paid ?? 0, settled_at: found.state === 'settled' ? now() : undefined }
  },
  pay_invoice: pay,
}

async function answer(event) {
  const { method, params } = JSON.parse(decrypt(event.content))
  const tag = (name) => event.tags.find((one) => one[0] === name)?.[1]
  say({ type: 'request', method, params, encryption: tag('encryption'), expires_in: Number(tag('expiration')) - now() })
  if (mode === 'silent') return
  const said = { result_type: method, error: null, result: null }
  try {
    said.result = methods[method](params)
  } catch (error) {
    if (!error.code) throw error
    said.error = error
  }
  if (mode === 'lose' && method === 'pay_invoice') return
  const text = mode === 'rubbish' ? '{"result_type": 7' : JSON.stringify(said)
  await publish(23195, [['p', wish.client], ['e', event.id]], encrypt(text))
}

createInterface({ input: process.stdin }).on('line', async (line) => {
  const told = JSON.parse(line)
  if (told.mode) mode = told.mode
  if (told.paid) {
    const bill = bills.get(told.paid)
    bill.state = 'settled'
    msat += bill.amount
    const text = JSON.stringify({ notification_type: 'payment_received', notification: { ...bill } })
    await publish(wish.encryption === 'nip04' ? 23196 : 23197, [['p', wish.client]], encrypt(text))
  }
  say({ type: 'done' })
}).on('close', () => process.exit(0))

const relay = await Relay.connect(wish.relay)
relay.subscribe([{ kinds: [23194], '#p': [getPublicKey(secretKey)], since: now() - 5 }], {
  onevent: (event) => verifyEvent(event) && event.pubkey === wish.client && answer(event),
  async oneose() {
    const tags = [['notifications', 'payment_received']]
    if (wish.encryption === 'nip44') tags.push(['encryption', 'nip44_v2 nip04'])
    await publish(13194, tags, [...Object.keys(methods), 'notifications'].join(' '))
    say({ type: 'ready' })
  },
})
