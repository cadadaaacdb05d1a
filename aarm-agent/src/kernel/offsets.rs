//! The member offsets the kernel programs need, and what else they rely on in the layout.

use super::btf::{Btf, BtfError};

/// `(global of the object, structure, member)`.
const OFFSETS: &[(&str, &str, &str)] = &[
    ("OFF_FILE_F_PATH", "file", "f_path"),
    ("OFF_FILE_F_MODE", "file", "f_mode"),
    ("OFF_FILE_F_FLAGS", "file", "f_flags"),
    ("OFF_FILE_F_INODE", "file", "f_inode"),
    ("OFF_PATH_MNT", "path", "mnt"),
    ("OFF_PATH_DENTRY", "path", "dentry"),
    ("OFF_DENTRY_D_PARENT", "dentry", "d_parent"),
    ("OFF_DENTRY_D_INODE", "dentry", "d_inode"),
    ("OFF_INODE_I_INO", "inode", "i_ino"),
    ("OFF_INODE_I_MODE", "inode", "i_mode"),
    ("OFF_INODE_I_SB", "inode", "i_sb"),
    ("OFF_SUPER_BLOCK_S_DEV", "super_block", "s_dev"),
    ("OFF_INODE_I_NLINK", "inode", "i_nlink"),
    ("OFF_INODE_I_RDEV", "inode", "i_rdev"),
    ("OFF_INODE_I_GENERATION", "inode", "i_generation"),
    ("OFF_INODE_I_DENTRY", "inode", "i_dentry"),
    ("OFF_DENTRY_D_SB", "dentry", "d_sb"),
    ("OFF_SUPER_BLOCK_S_MOUNTS", "super_block", "s_mounts"),
    ("OFF_SUPER_BLOCK_S_ROOT", "super_block", "s_root"),
    ("OFF_SUPER_BLOCK_S_MAGIC", "super_block", "s_magic"),
    ("OFF_VFSMOUNT_MNT_ROOT", "vfsmount", "mnt_root"),
    ("OFF_MOUNT_MNT", "mount", "mnt"),
    ("OFF_MOUNT_MNT_PARENT", "mount", "mnt_parent"),
    ("OFF_MOUNT_MNT_NS", "mount", "mnt_ns"),
    ("OFF_LINUX_BINPRM_FILE", "linux_binprm", "file"),
    ("OFF_LINUX_BINPRM_FILENAME", "linux_binprm", "filename"),
    ("OFF_LINUX_BINPRM_INTERP", "linux_binprm", "interp"),
    ("OFF_TASK_STRUCT_PID", "task_struct", "pid"),
    ("OFF_TASK_STRUCT_FLAGS", "task_struct", "flags"),
    ("OFF_TASK_STRUCT_PTRACE", "task_struct", "ptrace"),
    ("OFF_PT_REGS_AX", "pt_regs", "ax"),
    ("OFF_PT_REGS_ORIG_AX", "pt_regs", "orig_ax"),
    ("OFF_PT_REGS_DI", "pt_regs", "di"),
    ("OFF_PT_REGS_SI", "pt_regs", "si"),
    ("OFF_PT_REGS_DX", "pt_regs", "dx"),
    ("OFF_PT_REGS_R10", "pt_regs", "r10"),
    ("OFF_PT_REGS_R8", "pt_regs", "r8"),
    ("OFF_PT_REGS_R9", "pt_regs", "r9"),
    ("OFF_PT_REGS_IP", "pt_regs", "ip"),
    ("OFF_PT_REGS_SP", "pt_regs", "sp"),
    ("OFF_TASK_STRUCT_TGID", "task_struct", "tgid"),
    ("OFF_TASK_STRUCT_REAL_PARENT", "task_struct", "real_parent"),
    ("OFF_TASK_STRUCT_MM", "task_struct", "mm"),
    ("OFF_TASK_STRUCT_FS", "task_struct", "fs"),
    ("OFF_TASK_STRUCT_SIGNAL", "task_struct", "signal"),
    ("OFF_TASK_STRUCT_EXIT_CODE", "task_struct", "exit_code"),
    ("OFF_SIGNAL_STRUCT_LIVE", "signal_struct", "live"),
    ("OFF_MM_STRUCT_EXE_FILE", "mm_struct", "exe_file"),
    ("OFF_MM_STRUCT_ARG_START", "mm_struct", "arg_start"),
    ("OFF_MM_STRUCT_ARG_END", "mm_struct", "arg_end"),
    ("OFF_FS_STRUCT_PWD", "fs_struct", "pwd"),
    ("OFF_TASK_STRUCT_FILES", "task_struct", "files"),
    ("OFF_FILES_STRUCT_FDT", "files_struct", "fdt"),
    ("OFF_FDTABLE_MAX_FDS", "fdtable", "max_fds"),
    ("OFF_FDTABLE_FD", "fdtable", "fd"),
    ("OFF_CRED_UID", "cred", "uid"),
    ("OFF_CRED_GID", "cred", "gid"),
    ("OFF_CRED_EUID", "cred", "euid"),
    ("OFF_CRED_FSUID", "cred", "fsuid"),
    ("OFF_TASK_STRUCT_CRED", "task_struct", "cred"),
    ("OFF_TASK_STRUCT_COMM", "task_struct", "comm"),
    ("OFF_LINUX_BINPRM_CRED", "linux_binprm", "cred"),
    ("OFF_VM_AREA_STRUCT_VM_FILE", "vm_area_struct", "vm_file"),
    ("OFF_VM_AREA_STRUCT_VM_FLAGS", "vm_area_struct", "vm_flags"),
    ("OFF_SOCKET_SK", "socket", "sk"),
    ("OFF_SOCKET_STATE", "socket", "state"),
    ("OFF_SOCKET_TYPE", "socket", "type"),
    ("OFF_SOCK_SK_PROTOCOL", "sock", "sk_protocol"),
    ("OFF_SOCK_SKC_FAMILY", "sock_common", "skc_family"),
    ("OFF_SOCK_SKC_NUM", "sock_common", "skc_num"),
    ("OFF_SOCK_SKC_RCV_SADDR", "sock_common", "skc_rcv_saddr"),
    ("OFF_SOCK_SKC_V6_RCV_SADDR", "sock_common", "skc_v6_rcv_saddr"),
    // `possible_net_t`, which holds nothing but the pointer.
    ("OFF_SOCK_SKC_NET", "sock_common", "skc_net"),
    ("OFF_MSGHDR_MSG_NAME", "msghdr", "msg_name"),
    ("OFF_MSGHDR_MSG_NAMELEN", "msghdr", "msg_namelen"),
    ("OFF_MSGHDR_MSG_FLAGS", "msghdr", "msg_flags"),
    ("OFF_MSGHDR_MSG_CONTROL", "msghdr", "msg_control"),
    ("OFF_MSGHDR_MSG_CONTROLLEN", "msghdr", "msg_controllen"),
    ("OFF_SOCKET_FILE", "socket", "file"),
    ("OFF_SOCK_SK_SOCKET", "sock", "sk_socket"),
    ("OFF_UNIX_SOCK_PEER", "unix_sock", "peer"),
    ("OFF_UNIX_SOCK_ADDR", "unix_sock", "addr"),
    ("OFF_UNIX_SOCK_PATH", "unix_sock", "path"),
    ("OFF_UNIX_ADDRESS_LEN", "unix_address", "len"),
    ("OFF_UNIX_ADDRESS_NAME", "unix_address", "name"),
    ("OFF_TASK_STRUCT_CGROUPS", "task_struct", "cgroups"),
    ("OFF_CSS_SET_DFL_CGRP", "css_set", "dfl_cgrp"),
    ("OFF_CGROUP_KN", "cgroup", "kn"),
    ("OFF_KERNFS_NODE_ID", "kernfs_node", "id"),
    ("OFF_KERNFS_NODE_NAME", "kernfs_node", "name"),
];

/// The offsets of the running kernel, by the object's global.
pub fn resolve(btf: &Btf) -> Result<Vec<(&'static str, u32)>, BtfError> {
    check_layout(btf)?;
    let mut found: Vec<(&'static str, u32)> = OFFSETS
        .iter()
        .map(|(global, structure, member)| Ok((*global, btf.offset(structure, member)?)))
        .collect::<Result<_, BtfError>>()?;
    let name = btf.offset("dentry", "d_parent")? + 8;
    found.push(("OFF_DENTRY_D_NAME_HASH", name));
    found.push(("OFF_DENTRY_D_NAME_LEN", name + 4));
    // Named `d_u.d_alias` before 7.0.
    found.push((
        "OFF_DENTRY_D_ALIAS",
        btf.offset("dentry", "d_alias").or_else(|_| btf.offset("dentry", "d_u"))?,
    ));
    // Named `__parent` from 6.15 on.
    let parent = btf.offset("kernfs_node", "parent").or_else(|_| btf.offset("kernfs_node", "__parent"))?;
    found.push(("OFF_KERNFS_NODE_PARENT", parent));
    let number = btf.offset("mnt_namespace", "ns")? + btf.offset("ns_common", "inum")?;
    found.push(("OFF_MNT_NAMESPACE_INUM", number));
    let number = btf.offset("net", "ns")? + btf.offset("ns_common", "inum")?;
    found.push(("OFF_NET_INUM", number));
    // The mounts of a filesystem: a list before 6.18, then a chain. The other one is 0.
    let list = btf.offset("mount", "mnt_instance").unwrap_or(0);
    let chain = if list == 0 { btf.offset("mount", "mnt_next_for_sb")? } else { 0 };
    found.push(("OFF_MOUNT_MNT_INSTANCE", list));
    found.push(("OFF_MOUNT_NEXT_FOR_SB", chain));
    Ok(found)
}

/// What the programs read in one piece, and so must lie as they expect.
fn check_layout(btf: &Btf) -> Result<(), BtfError> {
    let parent = btf.offset("dentry", "d_parent")?;
    let name = btf.offset("dentry", "d_name").or_else(|_| btf.offset("dentry", "__d_name"))?;
    if name != parent + 8 {
        return Err(BtfError::Layout("struct dentry: d_parent, d_name"));
    }
    if btf.offset("qstr", "len")? != 4 || btf.offset("qstr", "name")? != 8 {
        return Err(BtfError::Layout("struct qstr"));
    }
    let mount = btf.offset("mount", "mnt_parent")?;
    if btf.offset("mount", "mnt_mountpoint")? != mount + 8
        || btf.offset("mount", "mnt")? != mount + 16
        || btf.offset("vfsmount", "mnt_root")? != 0
    {
        return Err(BtfError::Layout("struct mount: mnt_parent, mnt_mountpoint, mnt"));
    }
    if btf.offset("path", "mnt")? != 0 || btf.offset("path", "dentry")? != 8 {
        return Err(BtfError::Layout("struct path"));
    }
    if btf.offset("sock", "__sk_common")? != 0 || btf.offset("unix_sock", "sk")? != 0 {
        return Err(BtfError::Layout("struct sock"));
    }
    Ok(())
}
