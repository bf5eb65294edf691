"""The secure channel: one SSH connection with forwards in both directions, on Conch."""
