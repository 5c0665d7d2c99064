"""What the four services share: contracts, ports, the journal's kernel, adapters of one machine."""
