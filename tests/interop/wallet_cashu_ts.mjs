// A wallet made of cashu-ts alone, as other people's wallets are. It knows NUT-18 and nothing of Tradepost.
//
//   node wallet_cashu_ts.mjs '{"do": "pay", "mint": "http://…", "request": "creqA…"}'
//
// do: "pay" a request with coins minted for it, locked as it asks, and print the payload (NUT-18) and what a reader of
// the request sees; "sign" `proofs` with `keys` and print their witnesses; "take" `proofs` with `keys` and print how
// many sats came. One JSON object on stdout; an error is a stack on stderr and code 1.

import { Amount, PaymentRequest, Wallet, signP2PKProofs } from '@cashu/cashu-ts'

const FUNDS = 1024
const wish = { keys: [], ...JSON.parse(process.argv[2]) }
const wallet = new Wallet(wish.mint)
await wallet.loadMint()

function plain(proof) {
  const witness = typeof proof.witness === 'object' ? JSON.stringify(proof.witness) : proof.witness
  return { ...proof, amount: Amount.from(proof.amount).toNumber(), ...(witness && { witness }) }
}

async function fund() {
  const quote = await wallet.createMintQuoteBolt11(FUNDS)
  for (let tries = 0; tries < 100; tries++) {
    const { state } = await wallet.checkMintQuoteBolt11(quote.quote)
    if (state === 'PAID') return wallet.mintProofsBolt11(FUNDS, quote.quote) // the test mint pays by itself
  }
  throw new Error('the mint does not pay its own invoice')
}

async function pay() {
  const request = PaymentRequest.fromEncodedRequest(wish.request)
  const amount = request.amount.toNumber()
  const { send } = await wallet.ops
    .send(amount, await fund())
    .asP2PK(request.toP2PKOptions())
    .includeFees(true)
    .run()
  const payload = { id: request.id, mint: wish.mint, unit: request.unit, proofs: send.map(plain) }
  return { payload, creqb: request.toEncodedCreqB() }
}

async function take() {
  const proofs = await wallet.ops.receive(proofsIn()).privkey(wish.keys).run()
  return { sat: proofs.reduce((sum, proof) => sum + Amount.from(proof.amount).toNumber(), 0) }
}

function proofsIn() {
  return wish.proofs.map((proof) => ({ ...proof, amount: Amount.from(proof.amount) }))
}

const doings = { pay, take, sign: () => ({ proofs: signP2PKProofs(proofsIn(), wish.keys).map(plain) }) }
process.stdout.write(JSON.stringify(await doings[wish.do]()))
