// What wallets made of cashu-ts share: coins from a test mint, and a payment as a NUT-18 request wants it.

import { Amount, Wallet } from '@cashu/cashu-ts'

const FUNDS = 1024

export async function openWallet(mint) {
  const wallet = new Wallet(mint)
  await wallet.loadMint()
  return wallet
}

export function plain(proof) {
  const witness = typeof proof.witness === 'object' ? JSON.stringify(proof.witness) : proof.witness
  return { ...proof, amount: Amount.from(proof.amount).toNumber(), ...(witness && { witness }) }
}

export async function payRequest(wallet, mint, request) {
  const { send } = await wallet.ops
    .send(request.amount.toNumber(), await fund(wallet))
    .asP2PK(request.toP2PKOptions())
    .includeFees(true)
    .run()
  return { id: request.id, mint, unit: request.unit, proofs: send.map(plain) }
}

async function fund(wallet) {
  const quote = await wallet.createMintQuoteBolt11(FUNDS)
  for (let tries = 0; tries < 100; tries++) {
    const { state } = await wallet.checkMintQuoteBolt11(quote.quote)
    if (state === 'PAID') return wallet.mintProofsBolt11(FUNDS, quote.quote) // the test mint pays by itself
  }
  throw new Error('the mint does not pay its own invoice')
}
