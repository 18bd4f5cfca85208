from identity import LocalSigner, SecretKey, make_template


async def test_a_local_signer_signs_as_its_key(alice: SecretKey, alices_signer: LocalSigner) -> None:
    event = await alices_signer.sign(make_template(1, content="hi", created_at=1_700_000_000))
    event.verify()
    assert event.pubkey == alices_signer.public_key == alice.public_key


async def test_two_signers_talk(alices_signer: LocalSigner, bobs_signer: LocalSigner) -> None:
    payload = await alices_signer.nip44_encrypt(bobs_signer.public_key, "hi")
    assert await bobs_signer.nip44_decrypt(alices_signer.public_key, payload) == "hi"


def test_repr_hides_the_secret(alice: SecretKey, alices_signer: LocalSigner) -> None:
    assert repr(alices_signer) == f"LocalSigner(public_key={alice.public_key!r})"
    assert alice.hex() not in repr(vars(alices_signer))
