# aluminium, moved by a learned map: the timestep is its stride, 32 fs, and there is no fix nve
units           metal
atom_style      atomic
read_data       al.data
pair_style      zero 6.0          # the map needs no forces
pair_coeff      * *
timestep        0.032

fix             bath all temp/csvr 300 300 1.0 2026
compute         msd all msd
fix             msd all ave/time 10 1 10 c_msd[4] file msd.txt
dump            all all custom 10 al.dump id element xu yu zu vx vy vz
dump_modify     all element Al sort id
thermo_style    custom step time temp c_msd[4]
thermo          100
