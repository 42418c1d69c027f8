"""The `userspace` back end: delay, jitter, bursts, duplicates, order and corruption on kernels without sch_netem.

nftables hands the packets of the pairs that need it to a process of ours (NFQUEUE), which says of each when it goes on,
and whether. What plain loss, cuts and rates are stays with the nft back end.
"""
